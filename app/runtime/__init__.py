"""ONNX files in, probabilities out."""

import os
import sys

# No runtime reports to its makers. ONNX Runtime reads this once, when it is imported; OpenVINO
# reports when it is imported, by a package that does nothing else.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
