"""From the user's X and y to batches."""
