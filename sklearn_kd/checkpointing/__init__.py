"""Write checkpoints of a fit, and resume a fit from them."""
