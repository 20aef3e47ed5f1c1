"""Every kind of teacher, asked for logits or feature maps."""
