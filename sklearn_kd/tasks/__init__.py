"""Kinds of target y, each with an object that checks, encodes, splits, predicts and scores it."""
