"""Compute hypergradients."""
