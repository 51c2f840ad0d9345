"""Pure rules of the node: standard library only."""
