"""How a result came about: the same words in every format that can carry them."""

import math
from dataclasses import asdict, dataclass

from .. import __version__
from ..segmentation.plan import Plan


@dataclass(frozen=True)
class Provenance:
    """The parts of a plan that decide a mask."""

    software: str
    model: str
    """Version of the bundle, which holds a digest of its weights."""
    threshold: float
    weights: dict[str, float]
    """Of each member that voted; they sum to 1."""
    combine: str
    min_confidence: float
    """Mean probability of each building at least; 0: no more than the threshold asks for."""
    gsd: float | None
    """Metres per pixel of the image; None where it is not known."""
    cascade: str | None
    """The member that decided patches alone; None where all members decided every pixel."""

    def fields(self) -> dict[str, object]:
        """Return everything by name, for JSON."""
        return asdict(self)

    def tags(self) -> dict[str, str]:
        """Return everything as text, for the metadata of an image file."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
        return {
            "Software": self.software,
            "rooftrace_model": self.model,
            "rooftrace_threshold": f"{self.threshold:g}",
            "rooftrace_weights": weights,
            "rooftrace_combine": self.combine,
            "rooftrace_min_confidence": f"{self.min_confidence:g}",
            "rooftrace_gsd": "unknown" if self.gsd is None else f"{self.gsd:.6g} m",
            "rooftrace_cascade": self.cascade or "off",
        }


def provenance(plan: Plan) -> Provenance:
    """Return the provenance of a plan's result."""
    weights = zip(plan.members, plan.weights, strict=True)
    return Provenance(
        software=f"rooftrace {__version__}",
        model=plan.model,
        threshold=plan.threshold,
        weights={name: round(weight, 6) for name, weight in weights},
        combine=plan.combine,
        min_confidence=plan.min_confidence,
        gsd=math.sqrt(math.prod(plan.gsd)) if plan.gsd else None,
        cascade=plan.cascade.member if plan.cascade else None,
    )
