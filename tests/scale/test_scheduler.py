"""The simulation behind the plan in docs/scale.md."""

import pytest

from benchmarks.scheduler import Costs, simulate, table

ALIKE = Costs(km2=900, tile_km2=1, seconds_per_km2=10, workers=2, dispatch=0, finish=0, spread=0)
STEADY = Costs(**{**vars(ALIKE), "node_hours": 1e9})


def test_without_disturbance_it_is_arithmetic() -> None:
    run = simulate(3, STEADY)  # 900 files, 6 workers, 10 s each
    assert run.segmented == run.finished == pytest.approx(1500 / 3600)
    assert run.busy == pytest.approx(1)
    assert run.repeated == 0


def test_a_driver_that_is_slow_is_waited_for() -> None:
    run = simulate(1000, Costs(**{**vars(STEADY), "dispatch": 1.0}))
    assert run.segmented == pytest.approx((900 + 10) / 3600)
    assert run.busy < 0.01


def test_what_is_taken_away_is_done_again() -> None:
    calm, rough = simulate(3, STEADY), simulate(3, Costs(**{**vars(ALIKE), "node_hours": 0.02}))
    assert rough.repeated > 0
    assert rough.segmented > calm.segmented
    assert simulate(3, ALIKE, seed=1) == simulate(3, ALIKE, seed=1)


def test_the_end_is_of_one_process() -> None:
    run = simulate(1000, Costs(**{**vars(STEADY), "finish": 2.0}))
    assert (run.finished - run.segmented) * 3600 == pytest.approx(1800)


def test_the_table_has_a_row_for_each_size() -> None:
    assert table(STEADY, (1, 2)).count("\n") == 3
