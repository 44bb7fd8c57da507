"""What came out: a result per arm and seed, and what they say of an arm together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

from training.compare.experiment import Experiment

HEADLINE = "dice_micro"
"""The score that thresholds are fitted to, and that arms are first judged by."""
SHOWN = (
    "dice_micro",
    "dice_built",
    "object_f1",
    "boundary_f1",
    "empty_false_positives",
)
"""The scores in the table; the JSON has all."""


@dataclass(frozen=True)
class Result:
    """How one arm scored at one seed, as `training.evaluate` scores.

    `threshold` is where the micro Dice is highest, and `curve` has that of the other thresholds.
    """

    seed: int
    threshold: float
    scores: Mapping[str, float]
    sources: Mapping[str, Mapping[str, float]]
    curve: Mapping[str, float]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Write the result, wholly or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.replace(path)


@dataclass(frozen=True)
class Spread:
    """The mean over so many seeds, and their standard deviation, that of a sample (n - 1).

    `deviation` is None for a single seed, which says nothing of it.
    """

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Reduce the values of several seeds."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values))

    def text(self, sign: str = "") -> str:
        """Return `mean ± deviation`; with the sign `+`, the mean always has one."""
        space = "\N{NO-BREAK SPACE}"
        spread = "" if self.deviation is None else f"{space}±{space}{self.deviation:.3f}"
        return f"{self.mean:{sign}.3f}{spread}"


@dataclass(frozen=True)
class Comparison:
    """An experiment, how many tiles it is scored on, and the results so far, by arm."""

    experiment: Experiment
    tiles: int
    results: Mapping[str, Sequence[Result]] = field(default_factory=dict)

    def with_result(self, arm: str, result: Result) -> Self:
        """Return the comparison with one more result."""
        return replace(self, results={**self.results, arm: [*self.results.get(arm, ()), result]})

    def gain(self, arm: str) -> Spread | None:
        """Return how much higher the headline is than the first arm's, seed by seed.

        What a seed does to both arms alike cancels, so that this may spread less than they do.
        None for the first arm itself, and where no seed is done in both.
        """
        first, *_ = self.results
        base = {result.seed: result.scores[HEADLINE] for result in self.results[first]}
        gains = [
            result.scores[HEADLINE] - base[result.seed]
            for result in self.results[arm]
            if result.seed in base
        ]
        return Spread.of(gains) if gains and arm != first else None

    def how(self) -> str:
        """Say how arms were trained and scored, and what the tables show."""
        experiment = self.experiment
        seeds = ", ".join(map(str, experiment.seeds))
        return (
            f"Each network was trained on {experiment.samples} samples, in each arm from the same "
            f"seeds ({seeds}), and its last weights were taken. Scored on {self.tiles} tiles as "
            "the service would segment them, at the threshold of the highest dice_micro there, "
            "members of an ensemble weighing the same. Mean ± standard deviation over seeds; the "
            f"gain is that of {HEADLINE} over the first arm, seed by seed."
        )

    def by_arm(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of the table of arms."""
        return ["arm", "seeds", "gain", *SHOWN, "threshold"], [
            [
                arm,
                str(len(results)),
                gain.text("+") if (gain := self.gain(arm)) else "–",
                *(Spread.of([result.scores[name] for result in results]).text() for name in SHOWN),
                f"{fmean(result.threshold for result in results):.2f}",
            ]
            for arm, results in self.results.items()
        ]

    def by_source(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the rows of the table of the headline by source."""
        sources = list(next(iter(self.results.values()))[0].sources)
        return [HEADLINE, *sources], [
            [
                arm,
                *(
                    Spread.of([result.sources[source][HEADLINE] for result in results]).text()
                    for source in sources
                ),
            ]
            for arm, results in self.results.items()
        ]

    def markdown(self) -> str:
        """Lay everything out in Markdown."""
        parts = [f"# {self.experiment.title}", self.experiment.question, self.how()]
        for header, rows in (self.by_arm(), self.by_source()):
            lines = (header, ["---"] * len(header), *rows)
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join(parts) + "\n"

    def document(self) -> dict[str, Any]:
        """Return everything that was measured, and what it was measured on, for JSON."""
        arms = {arm.name: arm for arm in self.experiment.arms}
        return {
            "title": self.experiment.title,
            "question": self.experiment.question,
            "samples": self.experiment.samples,
            "seeds": self.experiment.seeds,
            "validation": [str(path) for path in self.experiment.validation],
            "tiles": self.tiles,
            "arms": {
                name: {
                    "members": [run.model_dump(mode="json") for run in arms[name].members],
                    "serve": arms[name].serve.model_dump(mode="json"),
                    "gain": asdict(gain) if (gain := self.gain(name)) else None,
                    "scores": {
                        score: asdict(Spread.of([result.scores[score] for result in results]))
                        for score in results[0].scores
                    },
                    "results": [asdict(result) for result in results],
                }
                for name, results in self.results.items()
            },
        }
