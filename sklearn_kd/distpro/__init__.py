"""Pathways between feature maps, and processes of their weights."""
