"""Turn the user's X and y into batches."""
