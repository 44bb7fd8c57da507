"""The cascade of a bundle: the order in which members are asked, and what it does to masks."""

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_+-]+$")]
"""Name of a member or a bundle."""


class _Model(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    pass


class Stage(_Model):
    """A stage of a cascade: the member that it asks, and how little doubt is to be left then."""

    member: Name
    share: Annotated[float, Field(ge=0, lt=1)]


class CascadeRule(_Model):
    """In which order members are asked about a patch, and when those asked decide it.

    Each stage asks one member more. The members asked so far decide a patch by their weighted mean
    where at most the stage's `share` of it lies within `doubt`, a range that holds the ensemble's
    threshold. All members decide a patch that no stage does.
    """

    doubt: tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @property
    def members(self) -> tuple[str, ...]:
        """Members in the order in which the stages ask them."""
        return tuple(stage.member for stage in self.stages)


class FittedStage(Stage):
    """A stage, and the share of patches that it decided."""

    decided: Annotated[float, Field(ge=0, le=1)]


class Cascade(CascadeRule):
    """A cascade's rule, and its effect on the masks of `fitted_on`.

    `dice_micro_change` is micro Dice less that of all members, and `object_f1_change` object F1
    less theirs.
    """

    stages: Annotated[tuple[FittedStage, ...], Field(min_length=1)]
    dice_micro_change: Annotated[float, Field(ge=-1, le=1)]
    object_f1_change: Annotated[float, Field(ge=-1, le=1)]
    fitted_on: str

    def __str__(self) -> str:
        low, high = self.doubt
        first, *others = self.stages
        rule = (
            f"{first.member} decides a patch alone where {_few(first.share)} of its pixels lie "
            f"from {low:g} to {high:g}. "
        )
        for stage in others:
            rule += (
                f"Elsewhere {stage.member} is asked too, and their mean decides where "
                f"{_few(stage.share)} of its pixels do. "
            )
        decided = " and ".join(f"{stage.decided:.0%}" for stage in self.stages)
        return (
            f"{rule}All members decide the other patches. On {self.fitted_on}, where this was "
            f"fitted, {decided} of the patches are decided so, and micro Dice changes by "
            f"{self.dice_micro_change:+.4f} on the split that loses most, object F1 by "
            f"{self.object_f1_change:+.4f}."
        )


def _few(share: float) -> str:
    return f"at most {share:.1%}" if share else "none"
