"""ONNX files in, probabilities out."""

import sys

# OpenVINO reports to its makers when it is imported, unless this package cannot be imported, which
# does nothing else.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
