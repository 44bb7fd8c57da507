"""How a result came about: the same words in every format that can carry them."""

from .. import __version__
from ..imaging.georeference import mean_gsd
from ..segmentation.plan import Plan

_SOFTWARE = f"rooftrace {__version__}"


def provenance(plan: Plan) -> dict[str, object]:
    """Return the parts of a plan that decide a mask, for JSON.

    `model` is the version of the bundle, which holds a digest of its weights. `weights` are those
    of the members that voted; they sum to 1. `min_confidence` is the least mean probability of a
    building; 0: no more than the threshold asks for. `gsd` is in metres per pixel, None where it is
    not known. `cascade` names the members that may decide a patch without the others, in the order
    in which they are asked; None where all members decided every pixel.
    """
    return {
        "software": _SOFTWARE,
        "model": plan.model,
        "threshold": plan.threshold,
        "weights": _weights(plan),
        "combine": plan.combine,
        "min_confidence": plan.min_confidence,
        "gsd": None if plan.gsd is None else mean_gsd(plan.gsd),
        "cascade": _cascade(plan),
    }


def tags(plan: Plan) -> dict[str, str]:
    """Return the same as text, for the metadata of an image file."""
    return {
        "Software": _SOFTWARE,
        "rooftrace_model": plan.model,
        "rooftrace_threshold": f"{plan.threshold:g}",
        "rooftrace_weights": ", ".join(f"{name} {w:g}" for name, w in _weights(plan).items()),
        "rooftrace_combine": plan.combine,
        "rooftrace_min_confidence": f"{plan.min_confidence:g}",
        "rooftrace_gsd": f"{mean_gsd(plan.gsd):.6g} m" if plan.gsd else "unknown",
        "rooftrace_cascade": _cascade(plan) or "off",
    }


def _weights(plan: Plan) -> dict[str, float]:
    return {name: round(weight, 6) for name, weight in plan.weight_of.items()}


def _cascade(plan: Plan) -> str | None:
    return ", ".join(plan.cascade.members) if plan.cascade else None
