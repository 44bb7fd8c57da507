"""A bundle: ONNX files and the manifest that describes them."""
