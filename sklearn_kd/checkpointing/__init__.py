"""Checkpoints of a fit, and how a fit goes on from one."""
