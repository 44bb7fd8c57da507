"""Dashboard and alerts: they ask for metrics that there are, and alerts do what they say."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.api.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "docker" / "monitoring"


def expressions() -> Iterator[str]:
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            assert rule["labels"]["severity"] in ("page", "ticket")
            yield rule["expr"]
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_every_metric_that_is_asked_for_exists() -> None:
    metrics = Metrics()
    for counter, labels in (
        (metrics.requests, ("a", "b", "c")),
        (metrics.problems, ("a",)),
        (metrics.images, ("a",)),
        (metrics.reloads, ("a",)),
        (metrics.request_duration, ("a",)),
        (metrics.stage_duration, ("a",)),
    ):
        counter.labels(*labels)
    text = metrics.render().decode()
    known = {s.name for f in text_string_to_metric_families(text) for s in f.samples}
    asked = set(re.findall(r"\b(?:rooftrace|process)_\w+", " ".join(expressions())))
    assert len(asked) > 10
    assert asked <= known


def test_every_problem_and_outcome_that_is_asked_for_is_counted_from_the_start() -> None:
    """What first appears as 1 is no increase to Prometheus: the first one would cause no alert."""
    text = Metrics().render().decode()
    asked = re.findall(r'(\w+_total\{(?:problem|outcome)="[^"]+"\})', " ".join(expressions()))
    assert len(set(asked)) >= 4
    for series in asked:
        assert f"{series} 0.0" in text


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize("command", [["check", "alerts.yaml"], ["test", "alerts_test.yaml"]])
def test_alerts_do_what_they_say(command: list[str]) -> None:
    verb, file = command
    line = ["promtool", verb, "rules", file]
    done = subprocess.run(line, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
