"""One look for all pictures."""
