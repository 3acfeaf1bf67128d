"""The pipeline ends: in order, with everything, or promptly with the first error."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from edgesr.errors import Interrupted, MediaError
from edgesr.runtime.pipeline import Abandoned, run

WATCHDOG = 60.0  # seconds; only to turn a hang into a failure
ITEMS = 50


class Stage:
    """Passes items through; fails at an item, or in flush; may hold some back."""

    def __init__(self, *, fail_at: int | None = None, fail_in_flush: bool = False, hold: int = 0):
        self.fail_at = fail_at
        self.fail_in_flush = fail_in_flush
        self.hold = hold
        self.held: list[int] = []

    def push(self, item: int) -> Iterable[int]:
        if item == self.fail_at:
            raise MediaError(f"stage failed at {item}")
        self.held.append(item)
        split = max(len(self.held) - self.hold, 0)
        ready, self.held = self.held[:split], self.held[split:]
        return ready

    def flush(self) -> Iterable[int]:
        if self.fail_in_flush:
            raise MediaError("stage failed in flush")
        return self.held


def source(count: int = ITEMS, *, fail_at: int | None = None) -> Iterator[int]:
    for item in range(count):
        if item == fail_at:
            raise MediaError(f"source failed at {item}")
        yield item
    if fail_at == count:
        raise MediaError(f"source failed at {count}")


class Sink:
    def __init__(self, *, fail_at: int | None = None, fail_in_finish: bool = False) -> None:
        self.fail_at = fail_at
        self.fail_in_finish = fail_in_finish
        self.items: list[int] = []
        self.finished = False

    def __call__(self, item: int) -> None:
        if item == self.fail_at:
            raise MediaError(f"sink failed at {item}")
        self.items.append(item)

    def finish(self, check: Callable[[], None]) -> None:
        if self.fail_in_finish:
            raise MediaError("sink failed in finish")
        self.finished = True


def watched(call: Callable[[], Any]) -> BaseException | None:
    """Run `call` in a thread that may be given up; its error, and no thread left behind."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WATCHDOG)
    assert not thread.is_alive(), "the pipeline hangs"
    assert_no_threads()
    return errors[0] if errors else None


def assert_no_threads() -> None:
    left = [t.name for t in threading.enumerate() if t.name.startswith("edgesr-")]
    assert left == []


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("count", [0, 1, ITEMS])
def test_everything_in_order(count: int, size: int) -> None:
    sink = Sink()
    stages = [("hold", Stage(hold=3)), ("infer", Stage())]
    run(source(count), stages, sink, finish=sink.finish, size=size)
    assert sink.items == list(range(count))
    assert sink.finished
    assert_no_threads()


def test_without_stages() -> None:
    sink = Sink()
    run([1, 2, 3], [], sink)
    assert sink.items == [1, 2, 3]


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "source at the first item": ({"source": {"fail_at": 0}}, "source failed at 0"),
    "source in the middle": ({"source": {"fail_at": 25}}, "source failed at 25"),
    "source after the last item": ({"source": {"fail_at": ITEMS}}, f"source failed at {ITEMS}"),
    "first stage at once": ({"first": {"fail_at": 0}}, "stage failed at 0"),
    "first stage in the middle": ({"first": {"fail_at": 25}}, "stage failed at 25"),
    "first stage at the end": ({"first": {"fail_at": ITEMS - 1}}, f"stage failed at {ITEMS - 1}"),
    "first stage in flush": ({"first": {"fail_in_flush": True}}, "stage failed in flush"),
    "second stage at once": ({"second": {"fail_at": 0}}, "stage failed at 0"),
    "second stage in the middle": ({"second": {"fail_at": 25}}, "stage failed at 25"),
    "second stage in flush": ({"second": {"fail_in_flush": True}}, "stage failed in flush"),
    "sink at once": ({"sink": {"fail_at": 0}}, "sink failed at 0"),
    "sink in the middle": ({"sink": {"fail_at": 25}}, "sink failed at 25"),
    "sink at the end": ({"sink": {"fail_at": ITEMS - 1}}, f"sink failed at {ITEMS - 1}"),
    "sink in finish": ({"sink": {"fail_in_finish": True}}, "sink failed in finish"),
}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("failure", list(FAILURES))
def test_any_part_fails(failure: str, size: int) -> None:
    options, message = FAILURES[failure]
    sink = Sink(**options.get("sink", {}))
    stages = [
        ("first", Stage(**options.get("first", {}))),
        ("second", Stage(**options.get("second", {}))),
    ]
    error = watched(
        lambda: run(
            source(**options.get("source", {})), stages, sink, finish=sink.finish, size=size
        )
    )
    assert isinstance(error, MediaError)
    assert str(error) == message
    assert not sink.finished


def test_fails_while_the_others_wait() -> None:
    """The stage fails when its input is full and the sink waits for it: both sides must wake."""
    full = threading.Event()

    def slow_source() -> Iterator[int]:
        yield from range(3)  # one in the stage, two in the queue
        full.set()
        yield from range(3, ITEMS)

    class Fails(Stage):
        def push(self, item: int) -> Iterable[int]:
            assert full.wait(WATCHDOG)
            raise MediaError("late")

    error = watched(lambda: run(slow_source(), [("fails", Fails())], Sink(), size=2))
    assert str(error) == "late"


def test_first_error_wins() -> None:
    """The sink fails because the stage before it failed; the stage's error is the one to see."""
    failed = threading.Event()
    woken = threading.Event()

    class Fails(Stage):
        def push(self, item: int) -> Iterable[int]:
            if item < 1:
                return [item]
            failed.set()
            raise MediaError("the cause")

    def sink(item: int) -> None:
        assert failed.wait(WATCHDOG)
        assert woken.wait(WATCHDOG)
        raise MediaError("a consequence")

    def stopping() -> Iterator[int]:
        try:
            yield from endless()
        finally:  # the run is being stopped, so the first error is known
            woken.set()

    error = watched(lambda: run(stopping(), [("fails", Fails())], sink))
    assert str(error) == "the cause"


def endless() -> Iterator[int]:
    item = 0
    while True:
        yield item
        item += 1


def test_cancel() -> None:
    cancel = threading.Event()

    def sink(item: int) -> None:
        if item == 10:
            cancel.set()

    error = watched(lambda: run(endless(), [("infer", Stage())], sink, cancel=cancel))
    assert isinstance(error, Interrupted)


@pytest.mark.parametrize("checked", [True, False])
def test_cancel_inside_finish(checked: bool) -> None:
    """Either there is nothing and Interrupted, or it is complete and there is no error."""
    cancel = threading.Event()
    sink = Sink()

    def finish(check: Callable[[], None]) -> None:
        cancel.set()
        try:
            for _ in range(round(WATCHDOG / 0.01)):  # until the main thread has seen it
                check()
                time.sleep(0.01)
        except BaseException:
            if checked:
                raise
        sink.finish(check)

    error = watched(lambda: run(source(3), [], sink, finish=finish, cancel=cancel))
    assert sink.items == [0, 1, 2]
    assert isinstance(error, Interrupted) if checked else error is None
    assert sink.finished is not checked


def test_tick_fails() -> None:
    def tick() -> None:
        raise MediaError("no terminal")

    error = watched(lambda: run(endless(), [("infer", Stage())], Sink(), tick=tick))
    assert str(error) == "no terminal"


@pytest.mark.parametrize("sender", ["sink", "infer"])
def test_ctrl_c(sender: str) -> None:
    """SIGINT while the main thread waits; a timer ends the test if nothing else does."""
    sink = Sink()

    class Kills(Stage):
        def push(self, item: int) -> Iterable[int]:
            if item == 10 and sender == "infer":
                os.kill(os.getpid(), signal.SIGINT)
            return [item]

    def write(item: int) -> None:
        if item == 10 and sender == "sink":
            os.kill(os.getpid(), signal.SIGINT)

    give_up = threading.Event()
    watchdog = threading.Timer(WATCHDOG, give_up.set)
    watchdog.start()
    try:
        with pytest.raises(Interrupted, match=r"^interrupted$"):
            run(endless(), [("infer", Kills())], write, finish=sink.finish, cancel=give_up)
    finally:
        watchdog.cancel()
        watchdog.join()
    assert not sink.finished
    assert_no_threads()


def test_second_ctrl_c_does_not_wait_for_a_thread_that_hangs() -> None:
    stopped = threading.Event()
    release = threading.Event()

    def stopping() -> Iterator[int]:
        try:
            yield from endless()
        finally:
            stopped.set()

    def hangs(item: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        if stopped.wait(WATCHDOG):
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(WATCHDOG)

    start = time.perf_counter()
    with pytest.raises(Abandoned, match=r"interrupted without waiting for .*encode$"):
        run(stopping(), [("infer", Stage())], hangs)
    assert time.perf_counter() - start < WATCHDOG
    release.set()
    wait_for_threads()


def wait_for_threads() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("edgesr-"):
            thread.join(WATCHDOG)
    assert_no_threads()


def test_source_generator_is_closed() -> None:
    closed = threading.Event()

    def careful() -> Iterator[int]:
        try:
            yield from endless()
        finally:
            closed.set()

    error = watched(lambda: run(careful(), [("infer", Stage(fail_at=5))], Sink()))
    assert str(error) == "stage failed at 5"
    assert closed.is_set()


def test_bounded() -> None:
    """A slow sink holds the source back: memory does not grow with the length."""
    read: list[int] = []
    ahead: list[int] = []

    def counted() -> Iterator[int]:
        for item in range(200):
            read.append(item)
            yield item

    run(counted(), [("infer", Stage())], lambda item: ahead.append(len(read) - item), size=2)
    # Two queues of 2, and one item in each of the three hands, and one just asked for.
    assert max(ahead) <= 2 * 2 + 4


def test_observer_sees_all_work() -> None:
    seen: list[tuple[str, Any]] = []

    def observe(name: str, item: Any, seconds: float) -> None:
        assert seconds >= 0
        seen.append((name, item))

    sink = Sink()
    run(source(3), [("infer", Stage(hold=1))], sink, finish=sink.finish, observe=observe)
    for name in ("infer", "encode"):
        assert [item for stage, item in seen if stage == name] == [0, 1, 2, None]
    assert [item for stage, item in seen if stage == "decode"] == [0, 1, 2]
