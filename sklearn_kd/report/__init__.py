"""Report on a distilled student: its costs, and whether distillation was worth them."""
