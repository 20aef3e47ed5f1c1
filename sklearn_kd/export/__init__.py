"""Write whole models as one ONNX file: preprocessing, student, probabilities and labels."""
