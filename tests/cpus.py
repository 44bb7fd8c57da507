"""CPUs that the tests stand on: which precisions the product believes its CPU to have."""

from functools import cache

import pytest


def pretend(monkeypatch: pytest.MonkeyPatch, *lower: str) -> None:
    """Have the product believe that its CPU computes in fp32 and in `lower`, and in no other.

    Every branch can so be tested on every CPU. On one that OpenVINO can't even emulate bf16 on,
    fp32 stands in for it: it keeps more bits than tests of bf16 ask for.
    """
    pytest.importorskip("openvino", reason="the `openvino` extra is not installed")
    from app.runtime import capabilities, openvino

    monkeypatch.setattr(capabilities, "native_precisions", lambda: frozenset({"fp32", *lower}))
    if "bf16" in lower and not _runs_bf16():
        monkeypatch.setitem(openvino._TYPES, "bf16", openvino._TYPES["fp32"])


@cache
def _runs_bf16() -> bool:
    """Tell whether OpenVINO runs bf16 here, by itself or emulated."""
    from openvino import Core

    from app.runtime import capabilities, openvino

    options = capabilities._options(openvino._TYPES["bf16"])
    try:
        compiled = Core().compile_model(capabilities._convolution(1), "CPU", options)
    except RuntimeError:
        return False
    return bool(compiled.get_property("INFERENCE_PRECISION_HINT") == openvino._TYPES["bf16"])
