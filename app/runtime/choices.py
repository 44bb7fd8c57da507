"""Names of the choices of a runtime. It imports no library, so settings and help come at once."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8", "fp16"]

CpuPrecision = Literal["fp32", "bf16", "int8"]
GpuPrecision = Literal["fp32", "fp16"]
