"""Files of tensors, arrays and values: written at once or not at all, read without running code."""
