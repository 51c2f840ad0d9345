"""Training and evaluation of bundles."""
