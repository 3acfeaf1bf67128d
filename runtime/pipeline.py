"""Decode, infer, encode at the same time: one thread a stage, bounded queues, one stop event.

The first error anywhere stops everything and is the one that is raised. No thread waits on a
queue whose other end is gone: every wait ends on the stop event too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from edgesr.errors import Interrupted
from edgesr.runtime.stages import Stage

SOURCE, SINK = "decode", "encode"

# How long the main thread sleeps between looks at `cancel` and calls of `tick`, in seconds. It is
# also the longest that a Ctrl-C can go unseen where a signal does not wake a waiting lock.
TICK = 0.1

Observer = Callable[[str, Any, float], None]


class Abandoned(Interrupted):
    """Stopped without waiting: threads are still inside what they were given; do not close it."""


def run(
    source: Iterable[Any],
    stages: Sequence[tuple[str, Stage]],
    sink: Callable[[Any], None],
    *,
    finish: Callable[[Callable[[], None]], None] | None = None,
    size: int = 4,
    observe: Observer | None = None,
    tick: Callable[[], None] | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Take every item of `source` through `stages` into `sink`, in order; wait for the end.

    source   iterated in its own thread
    stages   (name, stage); each is pushed and flushed in its own thread
    sink     called with every finished item, in its own thread
    finish   called once after the last item, in the thread of `sink`; not after an error. It is
             given a function that raises when the run has been stopped meanwhile: to be called
             before what cannot be undone
    size     items that may wait between two threads
    observe  called after each piece of work with (stage name, item, busy seconds), where the item
             is None for a flush and for `finish`; the source is "decode", the sink "encode".
             Called from the working threads
    tick     called in the calling thread, about every 0.1 s
    cancel   set it to stop early

    Raises the first error of any stage, or Interrupted after Ctrl-C or `cancel`, unless `finish`
    has returned: then all is done, and it is too late. All threads have ended by then. A second
    Ctrl-C stops waiting for a thread that hangs inside foreign code and raises Abandoned.
    """
    names = [SOURCE, *(name for name, _ in stages), SINK]
    work = _Run(channels=len(stages) + 1, size=size, observe=observe or _ignore)
    jobs: list[Callable[[], None]] = [partial(work.read, source)]
    for index, (name, stage) in enumerate(stages):
        jobs.append(partial(work.step, index, name, stage))
    jobs.append(partial(work.write, sink, finish))
    # Not `is_alive`: a `join` that a Ctrl-C cut short takes its thread for ended.
    ended = [threading.Event() for _ in jobs]
    threads = [
        # Daemons: a thread stuck in a dead camera's driver must not keep the process alive.
        threading.Thread(
            target=_guarded, args=(work, job, over), name=f"edgesr-{name}", daemon=True
        )
        for name, job, over in zip(names, jobs, ended, strict=True)
    ]
    try:
        try:
            for thread in threads:
                thread.start()
            while True:
                if cancel is not None and cancel.is_set():
                    raise Interrupted("stopped on request")
                if work.over.wait(TICK):
                    break
                if tick is not None:
                    tick()
            _join(threads, ended)
        except KeyboardInterrupt:
            work.fail(Interrupted("interrupted"))
        except BaseException as error:  # cancelled, or `tick` failed, or no more threads
            work.fail(error)
        _join(threads, ended)
    except KeyboardInterrupt:  # the second one
        work.fail(Interrupted("interrupted"))
        started = zip(names, threads, ended, strict=True)
        busy = [name for name, thread, over in started if thread.ident and not over.is_set()]
        if busy and not work.done:
            raise Abandoned(f"interrupted without waiting for {' and '.join(busy)}") from None
    if work.error is not None and not (work.done and isinstance(work.error, Interrupted)):
        raise work.error


class _Stopped(Exception):
    """The run is over for a reason that is known elsewhere."""


class _Channel:
    """A bounded queue that gives up when the run is stopped."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._size = size
        self._stop = stop
        self._items: deque[Any] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Any) -> None:
        with self._changed:
            while len(self._items) >= self._size and not self._stop.is_set():
                self._changed.wait()
            if self._stop.is_set():
                raise _Stopped
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """No more items will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let the waiting threads look at the stop event, which was set before."""
        with self._changed:
            self._items.clear()  # frames are large
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Any]:
        while True:
            with self._changed:
                while not (self._items or self._closed or self._stop.is_set()):
                    self._changed.wait()
                if self._stop.is_set():
                    raise _Stopped
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class _Run:
    """What the threads of one run share."""

    def __init__(self, *, channels: int, size: int, observe: Observer) -> None:
        self.error: BaseException | None = None
        self.over = threading.Event()  # all is written, or somebody failed
        self.done = False  # all is written
        self._observe = observe
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._channels = [_Channel(size, self._stop) for _ in range(channels)]

    def guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except _Stopped:
            pass
        except BaseException as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Stop every thread; the first error is kept."""
        with self._lock:
            if self.error is None:
                self.error = error
        self._stop.set()
        for channel in self._channels:
            channel.wake()
        self.over.set()

    def read(self, source: Iterable[Any]) -> None:
        output = self._channels[0]
        items = iter(source)
        try:
            while True:
                start = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    break
                self._observe(SOURCE, item, time.perf_counter() - start)
                output.put(item)
        finally:
            if isinstance(items, Generator):
                items.close()  # here and now, not wherever it is collected
        output.close()

    def step(self, index: int, name: str, stage: Stage) -> None:
        output = self._channels[index + 1]
        for item in self._channels[index]:
            self._pass_on(name, item, partial(stage.push, item), output)
        self._pass_on(name, None, stage.flush, output)
        output.close()

    def _pass_on(
        self, name: str, item: Any, work: Callable[[], Iterable[Any]], output: _Channel
    ) -> None:
        start = time.perf_counter()
        done = list(work())  # a stage may be a generator: its work is done here
        self._observe(name, item, time.perf_counter() - start)
        for result in done:
            output.put(result)

    def write(
        self, sink: Callable[[Any], None], finish: Callable[[Callable[[], None]], None] | None
    ) -> None:
        for item in self._channels[-1]:
            start = time.perf_counter()
            sink(item)
            self._observe(SINK, item, time.perf_counter() - start)
        if finish is not None:
            start = time.perf_counter()
            finish(self._check)
            self.done = True
            self._observe(SINK, None, time.perf_counter() - start)
        self.done = True
        self.over.set()

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def _guarded(work: _Run, job: Callable[[], None], over: threading.Event) -> None:
    try:
        work.guard(job)
    finally:
        over.set()


def _join(threads: Sequence[threading.Thread], ended: Sequence[threading.Event]) -> None:
    for thread, over in zip(threads, ended, strict=True):
        if thread.ident is not None:
            while not over.wait(TICK):  # without a limit a Ctrl-C just before it is not seen
                pass
            thread.join()


def _ignore(name: str, item: Any, seconds: float) -> None:
    pass
