"""The report on a distilled student: what it cost, and whether it was worth it."""
