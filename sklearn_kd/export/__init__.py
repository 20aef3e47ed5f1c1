"""Whole models in one file of ONNX: preprocessing, student, probabilities and labels."""
