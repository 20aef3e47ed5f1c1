"""Write files of tensors, arrays and values whole or not at all; read them without running code."""
