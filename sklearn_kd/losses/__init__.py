"""Losses, and how metaparameters enter them."""
