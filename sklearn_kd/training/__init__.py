"""The training loop and its iterations."""
