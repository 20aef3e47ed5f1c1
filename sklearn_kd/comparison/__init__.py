"""Compare methods on the same folds and seeds."""
