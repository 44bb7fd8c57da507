"""ONNX files in, probabilities out."""
