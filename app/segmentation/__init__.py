"""The straight line from pixels to probabilities: numpy in, numpy out, no server in sight."""

import sys

# OpenVINO reports to its makers when it is imported, unless this package, which does that and no
# more, can't be.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
