"""Threads that callers share, and chunks that hold what several of them wait for."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import InferenceError
from app.runtime.predictor import Predictor, one_ahead

BAD = 255
"""The value of a patch that makes a network fail, or say what is no probability."""


class Network(Predictor):
    """Says of a patch's pixels what their red is of 255, notes its batches, and can be held up."""

    def __init__(self, chunk: int = 1) -> None:
        super().__init__(1, chunk)
        self.batches: list[tuple[str, int]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append((member, len(patches)))
        self.begun.set()
        assert self.go_on.wait(30)
        if member == "fails" and (patches == BAD).any():
            raise RuntimeError("out of luck")
        answer = patches[..., 0].astype(np.float32) / np.float32(BAD)
        return np.where(answer == 1, np.nan, answer) if member == "strange" else answer


def patches(number: int, value: int) -> NDArray[np.uint8]:
    return np.full((number, 4, 4, 3), value, np.uint8)


@contextmanager
def busy(
    network: Network, calls: Sequence[tuple[NDArray[np.uint8], tuple[str, ...]]]
) -> Iterator[list[Future[NDArray[np.float32]]]]:
    """Keep the only worker at work until all calls wait for it, one after the other."""
    network.go_on.clear()
    with ThreadPoolExecutor(1 + len(calls)) as callers:
        callers.submit(network.predict, patches(1, 0), ("first",))
        assert network.begun.wait(30)
        waiting = []
        for i, (these, members) in enumerate(calls):
            waiting.append(callers.submit(network.predict, these, members))
            while len(network._waiting) <= i:
                time.sleep(0.001)
        network.go_on.set()
        yield waiting
    network.close()


def test_a_chunk_is_filled_from_all_who_wait() -> None:
    network = Network(chunk=4)
    calls = [(patches(1, value), ("a", "b")) for value in range(1, 7)]
    with busy(network, calls) as answers:
        for (these, _), answer in zip(calls, answers, strict=True):
            np.testing.assert_array_equal(answer.result(), [these[..., 0] / np.float32(BAD)] * 2)
    assert network.batches == [("first", 1), ("a", 4), ("b", 4), ("a", 2), ("b", 2)]


def test_only_with_those_who_want_the_same_members() -> None:
    network = Network(chunk=4)
    calls = [(patches(1, 1), ("a",)), (patches(1, 2), ("b",)), (patches(1, 3), ("a",))]
    with busy(network, calls) as answers:
        assert [answer.result()[0, 0, 0, 0] * BAD for answer in answers] == [1, 2, 3]
    assert network.batches[1:] == [("a", 2), ("b", 1)]


def test_chunks_of_one_are_never_filled() -> None:
    network = Network()
    with busy(network, [(patches(1, 1), ("a",))] * 2) as answers:
        assert [len(answer.result()[0]) for answer in answers] == [1, 1]
    assert network.batches[1:] == [("a", 1), ("a", 1)]


@pytest.mark.parametrize(
    ("member", "words"), [("fails", "out of luck"), ("strange", "not probabilities")]
)
def test_one_callers_fault_is_not_anothers(member: str, words: str) -> None:
    network = Network(chunk=4)
    calls = [(patches(1, value), (member,)) for value in (1, BAD, 2)]
    with busy(network, calls) as (before, at_fault, after):
        with pytest.raises(InferenceError, match=words):
            at_fault.result()
        assert (before.result()[0, 0, 0, 0], after.result()[0, 0, 0, 0]) == (
            np.float32(1 / BAD),
            np.float32(2 / BAD),
        )
    assert network.batches[1] == (member, 3), "they did not go together"


def test_a_failure_ends_the_call_and_what_is_left_of_it() -> None:
    batches = []

    class Failing(Network):
        def _run(self, member: str, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
            batches.append(len(patches))
            time.sleep(0.02)  # or the thread would be through before the caller hears of the first
            raise RuntimeError("out of luck")

    network = Failing()
    with pytest.raises(InferenceError, match="out of luck"):
        network.predict(patches(50, BAD), ("fails",))
    network.close()
    assert len(batches) < 50
    assert network._waiting == []


class TestOneAhead:
    def test_the_next_answer_is_sought_while_one_is_used(self) -> None:
        begun = [threading.Event() for _ in range(4)]

        def ask(i: int) -> int:
            begun[i].set()
            return 10 * i

        answers = one_ahead(ask, range(4))
        assert next(answers) == 0
        assert begun[1].wait(30)  # nobody asked for its answer yet
        assert not begun[2].is_set()
        assert list(answers) == [10, 20, 30]

    def test_answers_of_nothing_are_none(self) -> None:
        assert list(one_ahead(lambda i: i, [])) == []

    def test_a_failure_comes_in_its_turn(self) -> None:
        answers = one_ahead(lambda i: 1 / i, [1, 2, 0, 4])
        assert [next(answers), next(answers)] == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(answers)

    def test_who_stops_leaves_no_thread_behind(self) -> None:
        before = threading.active_count()
        answers = one_ahead(lambda i: i, range(100))
        assert next(answers) == 0
        assert isinstance(answers, Generator)
        answers.close()
        assert threading.active_count() == before
