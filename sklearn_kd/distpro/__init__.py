"""Pathways between feature maps, and the process by which their weights change."""
