"""The words that choose a runtime. Without a library, as settings and help wait for them."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "onnxruntime", "openvino"]
Precision = Literal["auto", "fp32", "bf16", "int8", "fp16"]

CpuPrecision = Literal["fp32", "bf16", "int8"]
GpuPrecision = Literal["fp32", "fp16"]
