"""Methods compared on the same folds and seeds."""
