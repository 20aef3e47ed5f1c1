"""Layers of a network by name, and what passes through them."""
