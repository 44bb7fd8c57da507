"""How people serve such networks without Rooftrace, with the same ONNX files and equal masks."""
