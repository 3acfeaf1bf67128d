"""Several processes as one training: who they are, and how they agree.

`torchrun` and `accelerate launch` start one command many times and tell each process its number
by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Every process draws the same batch,
learns from every `size`-th sample of it, and all take the mean of their gradients. The first alone
writes files, validates and speaks. So N processes are one with the same batch, up to rounding,
wherever a term of the loss is a mean over samples. It is none in two places: batch normalisation
(SRResNet, the VGG discriminators) and the averages of the relativistic GAN see the samples of one
process.

On CPUs: torchrun, or `accelerate launch --multi_gpu ... --device cpu`; with --cpu accelerate starts
one process, whatever --num_processes says.

Flags and small values travel between CPUs (gloo), gradients between the devices (NCCL on CUDA),
averaged in one piece after the backward pass.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from edgesr.errors import EdgesrError, UsageError

T = TypeVar("T")

JOIN = timedelta(minutes=10)  # for all to come together
WORK = timedelta(days=7)  # others wait while the first decodes; one that ends is noticed at once
LISTEN = timedelta(seconds=2)  # for what another process says about its end

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class LostPeer(EdgesrError):
    """Another process of the training has ended."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """This process among `size`; number 0 is the first. Alone, all methods do nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here. Raises LostPeer, as every method below."""
        self.any(False)

    def any(self, said: bool) -> bool:
        """Whether one of them said so."""
        if self.size == 1:
            return said
        flag = torch.tensor([int(said)])
        with self._together():
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def given(self, value: T) -> T:
        """What the first has, everywhere."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with self._together():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def differing(self, value: object) -> int | None:
        """The first process whose value is not that of process 0."""
        if self.size == 1:
            return None
        values: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(values, value)
        return next((n for n, other in enumerate(values) if other != values[0]), None)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes its mean over the processes, in place; all of one type and device."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._together():
            dist.all_reduce(flat)
        flat /= self.size
        pieces = flat.split([tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))

    def in_turn(self, make: Callable[[], T]) -> T:
        """The first makes it, then the first of each machine, then all: files in a cache that may
        lie on one disk or on several are written once."""
        mine = 0 if self.first else 1 if self.local_rank == 0 else 2
        made: T | None = None
        for turn in range(3 if self.size > 1 else 1):
            if turn == mine:
                made = make()
            self.wait()
        return made  # type: ignore[return-value]

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostPeer(
                f"process {self.rank} of {self.size}: another process of this training has ended"
            ) from error


ALONE = Team()
_team = ALONE
_store: Any = None


def team() -> Team:
    """The processes that `joined` has brought together; this one alone outside of it."""
    return _team


def launched() -> int:
    """How many processes a launcher has started, by the environment."""
    if any(name not in os.environ for name in NEEDED):
        return 1
    return int(os.environ["WORLD_SIZE"])


@contextlib.contextmanager
def joined(device: str = "auto") -> Iterator[Team]:
    """Within it `team()` is all that a launcher has started; within another one it is that one.

    device  "auto", "cpu" or "cuda": of the last each process of a machine takes one

    Raises UsageError where a machine has more processes than devices, EdgesrError when the others
    do not come.
    """
    global _team, _store
    if _team.size > 1 or launched() == 1:
        yield _team
        return
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        require_device(local, torch.cuda.device_count())
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if on_cuda and dist.is_nccl_available() else "gloo"
    # Defaults of its functions hold the group that there is when it is first imported, as an
    # optimiser does. That group and its threads would outlive `destroy_process_group`, and a thread
    # that lets go of a tensor while Python ends aborts the process.
    importlib.import_module("torch.distributed.nn")
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=JOIN)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WORK)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise EdgesrError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} cannot join the others at "
            f"{address}: {str(error).splitlines()[0]}"
        ) from error
    _team, _store = Team(rank=rank, size=size, local_rank=local), store
    try:
        yield _team
        _team.wait()
        dist.destroy_process_group()
    except BaseException:
        if backend == "gloo":  # closes the connections, which the others notice; NCCL would wait
            dist.destroy_process_group()
        raise
    finally:
        _team = ALONE


P = ParamSpec("P")


def together(training: Callable[P, T]) -> Callable[P, T]:
    """A whole training for which the processes are `joined`; the first alone reports on it.

    It ends for all at once: the files that the first has written are there.
    """

    @functools.wraps(training)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with joined(str(kwargs.get("device", "auto"))) as crew:
            if not crew.first:
                kwargs.update(on_decode=None, on_progress=None, on_note=None)
            elif crew.size > 1 and callable(note := kwargs.get("on_note")):
                note(f"{crew.size} processes train together")
            result = training(*args, **kwargs)
            crew.wait()
            return result

    return run


def require_device(local: int, count: int) -> None:
    if local >= count:
        raise UsageError(
            f"more than {count} processes on a machine of {count} CUDA devices: "
            f"--nproc-per-node {count}, or --device cpu"
        )


def require_slices(batch: int) -> None:
    """Raises UsageError where the batch does not divide among the processes."""
    size = _team.size
    if batch % size:
        less, more = max(batch // size, 1) * size, -(-batch // size) * size
        choices = f"--set batch={less}" + (f" or {more}" if more != less else "")
        raise UsageError(f"batch {batch} does not divide among {size} processes: {choices}")


def own_share(share: float, batch: int) -> float:
    """Of this process's samples, the share that is among the first round(share * batch) of all."""
    if _team.size == 1:
        return share
    count = len(range(_team.rank, round(share * batch), _team.size))
    return count / (batch // _team.size)


def says(error: BaseException) -> bool:
    """Whether this process is the one to print why a training ended: each reason is told once.

    A reason that the first process tells too, and the loss of another that tells its own, are not
    told here. To be asked by each process that ends with an error, within `joined` or after it.
    """
    if _store is None:
        return True
    rank = int(os.environ["RANK"])
    try:
        if not isinstance(error, LostPeer):
            _store.set(f"edgesr/{rank}", str(error))
            _store.set("edgesr/any", str(rank))
            if rank == 0:
                return True
            _store.wait(["edgesr/0"], LISTEN)
            return _store.get("edgesr/0").decode() != str(error)
        _store.wait(["edgesr/any"], LISTEN)
        return False
    except RuntimeError:  # nothing was said, or who keeps the store has ended
        return True
