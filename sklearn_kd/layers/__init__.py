"""Layers of a network by name, and the feature maps that pass through them."""
