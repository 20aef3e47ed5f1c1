"""Files of tensors and arrays, written at once or not at all."""
