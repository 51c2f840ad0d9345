"""Registry of network architectures: one file a family."""
