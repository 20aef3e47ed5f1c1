"""Kinds of target y: each is checked, encoded, split, predicted and scored by one object."""
