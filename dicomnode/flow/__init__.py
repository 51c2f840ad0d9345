"""The steps of a study through the node, one file each, in the order that a study meets them."""
