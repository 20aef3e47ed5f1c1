"""Save fitted estimators to files that run no code, and load them."""
