"""Who is let in, who waits, for how long, and with how much memory."""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI

from app.api.admission import Admission, Deadline
from app.errors import ClientGone, DeadlineExceeded, QueueFull, SettingsError
from app.imaging.limits import BYTES_PER_PIXEL
from app.main import create_app
from app.memory import Memory
from app.segmentation.stream import never
from tests.factories import scene
from tests.serving import (
    END,
    FORM,
    PNG,
    RAW,
    Exchange,
    assert_problem,
    encoded,
    exact_bundle,
    part,
    running,
    serving,
    settings_of,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_bundle(tmp_path_factory.mktemp("exact"), patch_size=32)


async def until(done: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until `done()`."""
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.005)


def waiting_body(app: FastAPI) -> Exchange:
    """Make a request that is let in, and whose body does not come yet."""
    return Exchange(app, "POST", "/segment", RAW)


class TestQueue:
    @pytest.mark.parametrize("path", ["/segment", "/segment/rle"])
    def test_503_when_it_is_really_full(self, bundle: Path, path: str) -> None:
        async def fill() -> tuple[list[httpx2.Response], httpx2.Response, Exchange, int]:
            async with (
                running(bundle, concurrency=1, max_waiting=2) as app,
                asyncio.TaskGroup() as group,
            ):
                inside = [waiting_body(app) for _ in range(3)]  # one at work and two that wait
                tasks = [group.create_task(exchange.run()) for exchange in inside]
                await until(lambda: all(e.asked.is_set() for e in inside))
                ready = Exchange(app, "GET", "/health/ready")
                await ready.run()
                refused = Exchange(app, "POST", path, FORM)
                refused.body(END)  # so that it would end if it was let in
                await refused.run()
                live = await Exchange(app, "GET", "/health/live").run()
                assert live.response.status_code == 200
                for exchange in inside:
                    exchange.body(PNG)
                answers = [(await task).response for task in tasks]
                after = await Exchange(app, "GET", "/health/ready").run()
                return answers, ready.response, refused, after.response.status_code

        answers, ready, refused, after = asyncio.run(fill())
        for response in (ready, refused.response):
            assert_problem(response, 503, "Queue full", "2 requests are waiting")
            assert int(response.headers["retry-after"]) > 0
        assert not refused.asked.is_set(), "the body was read before it was refused"
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert after == 200

    @pytest.mark.parametrize("path", ["/segment?overlap=9", "/segment/rle"])
    def test_refusing_takes_no_thread_and_looks_at_nothing_else(
        self, bundle: Path, path: str
    ) -> None:
        """Threads are for those who were let in; and 500 at once are to be refused in no time."""

        async def refuse() -> httpx2.Response:
            async with running(bundle, concurrency=1, max_waiting=0) as app:
                inside = waiting_body(app)
                task = asyncio.create_task(inside.run())
                await until(inside.asked.is_set)
                before = set(threading.enumerate())
                refused = await Exchange(app, "POST", path, FORM).run()
                assert set(threading.enumerate()) == before
                inside.body(PNG)
                await task
                return refused.response

        assert_problem(asyncio.run(refuse()), 503, "Queue full")

    def test_room_is_given_back_however_a_request_ends(self, bundle: Path) -> None:
        async def end_badly() -> int:
            async with running(
                bundle, concurrency=1, max_waiting=0, receive_timeout=0.5, deadline=20
            ) as app:
                stalled = await waiting_body(app).run()
                assert stalled.response.status_code == 408
                gone = waiting_body(app)
                gone.leave()
                await gone.run()
                for data in (b"", b"nonsense", PNG[:50]):
                    bad = waiting_body(app)
                    bad.body(data)
                    assert (await bad.run()).response.status_code in (400, 415, 422)
                cancelled = asyncio.create_task(waiting_body(app).run())
                await asyncio.sleep(0)
                cancelled.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await cancelled
                stream = Exchange(app, "POST", "/segment/rle?format=ndjson", FORM)
                stream.body(part("files") + END)
                assert (await stream.run()).response.status_code == 200
                good = waiting_body(app)
                good.body(PNG)
                return (await good.run()).response.status_code

        assert asyncio.run(end_badly()) == 200


class TestMemory:
    """Budgets in bytes, small enough that the tests can fill them."""

    def test_a_budget_that_one_request_can_overrun_is_refused(self, bundle: Path) -> None:
        needed = 2 * 1000 + BYTES_PER_PIXEL * 100
        limits = {"max_upload_bytes": 1000, "max_pixels": 100}
        with serving(bundle, memory_budget=needed, **limits) as client:
            assert client.get("/health/ready").is_success
        with pytest.raises(SettingsError, match=f"MEMORY_BUDGET={needed - 1} .* {needed} bytes"):
            create_app(settings_of(bundle, memory_budget=needed - 1, **limits))

    def test_an_upload_without_room_is_refused_before_it_is_read(self, bundle: Path) -> None:
        limits = {"max_upload_bytes": 3000, "max_pixels": 400}
        budget = 2 * 5000 + BYTES_PER_PIXEL * 400

        async def fill() -> tuple[Exchange, Exchange, int, int]:
            async with running(bundle, memory_budget=budget, **limits) as app:
                first = Exchange(app, "POST", "/segment", RAW | {"Content-Length": "3000"})
                task = asyncio.create_task(first.run())
                await until(first.asked.is_set)
                reserved = app.state.service.admission.memory.reserved
                second = Exchange(app, "POST", "/segment", RAW | {"Content-Length": "2001"})
                second.body(PNG)  # so that it would end if there was room
                await second.run()
                first.body(PNG)
                return await task, second, reserved, app.state.service.admission.memory.reserved

        first, second, reserved, after = asyncio.run(fill())
        assert first.response.status_code == 200
        assert_problem(second.response, 503, "Queue full", "4000 bytes", "4002")
        assert int(second.response.headers["retry-after"]) > 0
        assert not second.asked.is_set(), "the body was read before it was refused"
        assert (reserved, after) == (6000, 0)

    def test_an_upload_that_does_not_say_its_length_is_refused_on_the_way(
        self, bundle: Path
    ) -> None:
        limits = {"max_upload_bytes": 3000, "max_pixels": 400}

        async def fill() -> tuple[httpx2.Response, int]:
            async with running(bundle, memory_budget=30_000, **limits) as app:
                memory = app.state.service.admission.memory
                memory.resize_body(0, 30_000 - BYTES_PER_PIXEL * 400 - 1000)
                exchange = Exchange(app, "POST", "/segment", RAW)
                for _ in range(3):
                    exchange.body(bytes(200), more=True)
                await asyncio.wait_for(exchange.run(), 10)
                return exchange.response, exchange.sent.qsize()

        response, unread = asyncio.run(fill())
        assert_problem(response, 503, "Queue full", "1000 bytes", "1200")
        assert unread == 0

    def test_images_wait_for_each_other_and_the_largest_gets_its_share(self) -> None:
        memory = Memory(150, largest_body=10, largest_image=100)
        memory.resize_body(0, 50)
        with pytest.raises(QueueFull):
            memory.resize_body(0, 1)
        held, most, done = threading.Lock(), [0], []

        def work(size: int) -> None:
            with memory.for_image(size, never):
                with held:
                    most[0] = max(most[0], memory.reserved)
                time.sleep(0.02)
            done.append(size)

        threads = [threading.Thread(target=work, args=[size]) for size in (60, 100, 60, 30, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [30, 60, 60, 100, 100]
        assert 140 <= most[0] <= 150
        assert memory.reserved == 50

    def test_an_image_that_nobody_waits_for_stops_waiting(self) -> None:
        memory, late, gone = (
            Memory(100, largest_body=0, largest_image=100),
            Deadline(0.2),
            Deadline(9),
        )
        with memory.for_image(100, never):
            with pytest.raises(DeadlineExceeded), memory.for_image(1, late.check):
                pass
            gone.abandon()
            with pytest.raises(ClientGone), memory.for_image(1, gone.check):
                pass
        assert memory.reserved == 0


class TestSlowBodies:
    """A client that trickles keeps its place for a moment, and nobody else from theirs for long."""

    def test_they_step_aside_for_others(self, bundle: Path) -> None:
        async def trickle() -> tuple[int, list[int], list[int]]:
            async with running(bundle, concurrency=1, max_waiting=1) as app:
                admission = app.state.service.admission
                admission._patience = 0.1
                slow = [waiting_body(app) for _ in range(2)]
                tasks = [asyncio.create_task(exchange.run()) for exchange in slow]
                await until(lambda: all(e.asked.is_set() for e in slow))
                shed = await waiting_body(app).run()
                await until(lambda: admission.inside == 0)
                fast = waiting_body(app)
                fast.body(PNG)
                served = await fast.run()
                for exchange in slow:  # there is room when they end after all
                    exchange.body(PNG)
                ended = [(await task).response.status_code for task in tasks]
                statuses = [served.response.status_code, *ended]
                return shed.response.status_code, statuses, [admission.inside]

        shed, statuses, inside = asyncio.run(trickle())
        assert shed == 503, "the queue was never full"
        assert statuses == [200, 200, 200]
        assert inside == [0]

    def test_they_are_refused_at_the_end_when_there_is_no_room(self, bundle: Path) -> None:
        async def trickle() -> httpx2.Response:
            async with running(bundle, concurrency=1, max_waiting=0) as app:
                admission = app.state.service.admission
                admission._patience = 0.05
                slow = waiting_body(app)
                task = asyncio.create_task(slow.run())
                await until(slow.asked.is_set)
                await until(lambda: admission.inside == 0)
                async with admission.admit():
                    slow.body(PNG)
                    return (await task).response

        assert_problem(asyncio.run(trickle()), 503, "Queue full")

    def test_only_what_they_sent_is_kept_for_them(self) -> None:
        async def trickle() -> list[int]:
            memory = Memory(100, largest_body=20, largest_image=10)
            admission = Admission(concurrency=1, max_waiting=5, memory=memory, patience=0.05)
            kept = []
            async with admission.admit(20) as place:
                place.receive(3)
                kept.append(memory.reserved)
                await until(lambda: admission.inside == 0)
                kept.append(memory.reserved)
                place.receive(4)
                kept.append(memory.reserved)
                place.complete()
                assert admission.inside == 1
            return [*kept, memory.reserved, admission.inside]

        assert asyncio.run(trickle()) == [40, 6, 14, 0, 0]


class TestDeparture:
    @pytest.mark.parametrize(
        ("path", "headers", "body"),
        [
            ("/segment", RAW, encoded(scene(1000, 1000))),
            ("/segment/rle", FORM, part("files", encoded(scene(1000, 1000))) + END),
        ],
        ids=["one", "batch"],
    )
    def test_the_work_stops_and_everything_is_free(
        self, bundle: Path, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        async def go() -> tuple[Exchange, float]:
            async with running(bundle, concurrency=1, workers=1) as app:
                admission = app.state.service.admission
                exchange = Exchange(app, "POST", f"{path}?overlap=0.75&tta=d4", headers)
                exchange.body(body)
                task = asyncio.create_task(exchange.run())
                await until(lambda: not idle("worker"))  # minutes of work have begun
                assert admission.memory.reserved >= BYTES_PER_PIXEL * 1_000_000
                left = time.perf_counter()
                exchange.leave()
                await task
                await until(lambda: idle("worker") and idle("request"))
                assert (admission.inside, admission.memory.reserved) == (0, 0)
                return exchange, time.perf_counter() - left

        exchange, stopped = asyncio.run(go())
        assert_problem(exchange.response, 499, "Client gone")
        assert stopped < 10

    def test_work_that_waits_gives_its_place_to_others(self, bundle: Path) -> None:
        async def go() -> tuple[int, int]:
            async with running(bundle, concurrency=1, max_waiting=1) as app:
                admission, release = app.state.service.admission, threading.Event()
                async with admission.admit():
                    busy = asyncio.create_task(admission.run(release.wait, Deadline(30)))
                    await asyncio.sleep(0)
                    waiting = waiting_body(app)
                    waiting.body(PNG)
                    task = asyncio.create_task(waiting.run())
                    await until(lambda: admission.inside == 2)
                    waiting.leave()
                    await task
                    inside = admission.inside
                    release.set()
                    await busy
                return waiting.response.status_code, inside

        assert asyncio.run(go()) == (499, 1)


class TestDeadline:
    # d4 at the largest overlap: seconds of work for the toy.
    SLOW = "/segment?overlap=0.75&tta=d4"

    def test_504_and_the_work_stops(self, bundle: Path) -> None:
        async def be_late() -> tuple[Exchange, float, float]:
            async with running(bundle, deadline=0.3, concurrency=1, workers=1) as app:
                exchange = Exchange(app, "POST", self.SLOW, RAW)
                exchange.body(encoded(scene(1000, 1000)))
                started = time.perf_counter()
                await exchange.run()
                answered = time.perf_counter() - started
                # The only thread is free again long before the work could have been done.
                nxt = waiting_body(app)
                nxt.body(PNG)
                assert (await nxt.run()).response.status_code in (200, 504)
                await until(lambda: idle("worker") and idle("request"))
                return exchange, answered, time.perf_counter() - started

        exchange, answered, stopped = asyncio.run(be_late())
        problem = assert_problem(exchange.response, 504, "Deadline exceeded", "0.3 seconds")
        assert "smaller" in problem["detail"]
        assert 0.3 <= answered < 10  # all of it would take minutes
        assert stopped < 20

    def test_work_that_waits_past_it_never_begins(self, bundle: Path) -> None:
        async def queue_up() -> httpx2.Response:
            async with running(bundle, deadline=0.3, concurrency=1, workers=1) as app:
                admission, release = app.state.service.admission, threading.Event()
                busy = asyncio.create_task(admission.run(release.wait, Deadline(30)))
                await asyncio.sleep(0)  # it has the only thread before the request comes
                late = waiting_body(app)
                late.body(b"not even an image")  # a 415, were it ever looked at
                await late.run()
                release.set()
                await busy
                return late.response

        assert_problem(asyncio.run(queue_up()), 504, "Deadline exceeded")

    def test_nor_does_it_when_the_event_loop_is_late_to_cancel_it(self) -> None:
        async def queue_up() -> bool:
            memory = Memory(2, largest_body=0, largest_image=1)
            admission = Admission(concurrency=1, max_waiting=1, memory=memory)
            release = threading.Event()
            begun: list[None] = []
            busy = asyncio.create_task(admission.run(release.wait, Deadline(30)))
            late = asyncio.create_task(admission.run(lambda: begun.append(None), Deadline(0.05)))
            await asyncio.sleep(0)
            time.sleep(0.1)  # the loop stands still, and the deadline passes
            release.set()
            time.sleep(0.1)  # the thread turns to what waited
            with pytest.raises(DeadlineExceeded):
                await late
            await busy
            admission.close()
            return bool(begun)

        assert not asyncio.run(queue_up())


def idle(prefix: str) -> bool:
    """Ask whether no thread whose name starts with `prefix` is inside of our code."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if not thread.name.startswith(prefix):
            continue
        while frame is not None:
            if "/app/" in frame.f_code.co_filename:
                return False
            frame = frame.f_back
    return True


def test_the_event_loop_stays_free_while_networks_run(bundle: Path) -> None:
    async def ask_meanwhile() -> list[float]:
        async with running(bundle, workers=1) as app:
            exchange = Exchange(app, "POST", "/segment?overlap=0.75", RAW)
            exchange.body(encoded(scene(400, 400)))
            task: asyncio.Task[Exchange] = asyncio.create_task(exchange.run())
            took = []
            while not task.done():
                started = time.perf_counter()
                await Exchange(app, "GET", "/health/live").run()
                took.append(time.perf_counter() - started)
                await asyncio.sleep(0.01)
            assert (await task).response.status_code == 200
            return took

    took = asyncio.run(ask_meanwhile())
    assert len(took) > 5
    assert sorted(took)[len(took) // 2] < 0.1
