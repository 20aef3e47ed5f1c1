"""Fitted estimators as files that run no code."""
