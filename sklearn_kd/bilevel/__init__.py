"""The mathematics of hypergradients."""
