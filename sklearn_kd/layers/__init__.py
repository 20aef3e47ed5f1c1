"""Find a network's layers by name, and capture their feature maps."""
