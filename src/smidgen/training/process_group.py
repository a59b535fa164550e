"""Data parallelism: the processes that `mlx.launch` starts share the batches of every step.

Every process reads the same rows and draws the same batches of a step, computes every n-th of them, and the
sums of their losses and gradients are added over the processes (`mx.distributed`). All of them then make the
same update. Process 0 alone writes the run folder; the others get the state of a checkpoint from it, so only
it needs the folder.
"""

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from smidgen.backend import mx
from smidgen.errors import WorkError

LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""Environment variables of which a launcher sets one."""
BYTES_AT_ONCE = 64 << 20
"""Gradients are added in pieces of this size, so that little memory is needed for their copies."""
ANSWER_SECONDS = 1800.0
"""A process that takes this much longer than the others over a step is taken for dead. One whose machine has
lost power closes no connection, and nothing else would notice."""

B = TypeVar("B")


class ProcessEnded(WorkError):
    """Another process of the training has ended, so no step can be finished."""


class Communicator(Protocol):
    """The part of `mx.distributed.Group` that is used here."""

    def rank(self) -> int:
        """Return the number of this process."""
        ...

    def size(self) -> int:
        """Return the number of processes."""
        ...


class ProcessGroup:
    """The processes of a training.

    Args:
        group: the group that connects them; None for a process on its own.

    Attributes:
        rank: number of this process; process 0 leads.
        size: number of processes.
    """

    def __init__(self, group: Communicator | None = None) -> None:
        self._group = group
        self.rank, self.size = (group.rank(), group.size()) if group else (0, 1)
        self._terminated = False
        self._others_wait = self.size > 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run folder and tells what happens."""
        return self.rank == 0

    def own(self, batches: Sequence[B]) -> tuple[Sequence[B], float]:
        """Return this process's batches of a step, and the factor on their sums.

        With fewer batches than processes, an idle process takes the first one and counts it as nothing, so
        that the sums of all processes have the same names and shapes.
        """
        mine = batches[self.rank :: self.size]
        return (mine, 1.0) if mine else (batches[:1], 0.0)

    def sum(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Add arrays of the same names and shapes over all processes.

        They are added one piece after the other, never at the same time: concurrent sums of many arrays can
        deadlock in the ring of MLX 0.32 (https://github.com/ml-explore/mlx/issues/4475).

        Args:
            arrays: this process's arrays, of any floating dtype.

        Returns:
            The sums, float32. They are the same bits in every process.

        Raises:
            ProcessEnded: another process has ended.
        """
        if self.size == 1:
            return dict(arrays)
        done: dict[str, mx.array] = {}
        for names in _pieces(arrays):
            flat = mx.concatenate([arrays[name].astype(mx.float32).reshape(-1) for name in names])
            flat, start = self._add(flat), 0
            for name in names:
                size = arrays[name].size
                done[name] = flat[start : start + size].reshape(arrays[name].shape)
                start += size
        return done

    def from_leader(self, arrays: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Return the arrays of process 0, bit for bit; those of the others give their shapes and dtypes."""
        if self.size == 1:
            return dict(arrays)
        found = {}
        for name, array in sorted(arrays.items()):
            given = self._add(array if self.leads else mx.zeros_like(array))
            found[name] = array if self.leads else given  # a sum with zeros would turn -0 into 0
        return found

    def told_by_leader(self, value: Any, seconds: float | None = ANSWER_SECONDS) -> Any:
        """Return the JSON value of process 0; that of the others is ignored."""
        return self._told_by(0, value, seconds)

    def told_by_all(self, value: Any) -> list[Any]:
        """Return the JSON values of all processes, in their order."""
        return [self._told_by(rank, value) for rank in range(self.size)]

    def _told_by(self, rank: int, value: Any, seconds: float | None = ANSWER_SECONDS) -> Any:
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.rank == rank else b""
        size = int(np.array(self._add(mx.array([len(data)], mx.int32), seconds))[0])
        whole = np.frombuffer(data.ljust(size, b"\0"), np.uint8).astype(np.int32)
        return json.loads(np.array(self._add(mx.array(whole), seconds)).astype(np.uint8).tobytes())

    def start_together(self) -> None:
        """Tell the waiting processes that a training starts."""
        if self._others_wait:
            self._others_wait = False
            self.told_by_leader(True)

    def dismiss(self) -> None:
        """Tell processes that still wait that there is nothing to train, or that it cannot start."""
        if self._others_wait:
            self._others_wait = False
            self.told_by_leader(False)

    def is_needed(self) -> bool:
        """Wait until process 0 starts a training, and return whether it does."""
        return bool(self.told_by_leader(None, seconds=None))

    def _add(self, array: mx.array, seconds: float | None = ANSWER_SECONDS) -> mx.array:
        """Add one array over all processes."""
        if self._terminated:
            raise ProcessEnded("this process was told to stop")
        mx.eval(array)
        try:
            with _stop_after(seconds):
                total = mx.distributed.all_sum(array, group=self._group)  # type: ignore[arg-type]
                mx.eval(total)
        except RuntimeError as error:
            raise ProcessEnded(f"another process of the training has ended ({error})") from None
        return total

    def outlive_the_launcher(self) -> None:
        """Note the request to stop that a launcher sends when a process has died, instead of dying of it.

        The next sum raises, and what has been trained so far can be saved.
        """

        def note(*_: object) -> None:
            self._terminated = True

        signal.signal(signal.SIGTERM, note)


ALONE = ProcessGroup()


def join_processes() -> ProcessGroup:
    """Connect to the other processes that a launcher started; without a launcher, return a group of one.

    Raises:
        WorkError: they cannot be reached.
    """
    if not any(name in os.environ for name in LAUNCHED):
        return ALONE
    try:
        connected = mx.distributed.init()
    except RuntimeError as error:
        raise WorkError(
            f"the other processes of the training could not be reached: {error}; check the hosts and ports "
            "of mlx.launch"
        ) from None
    if connected.size() == 1:
        return ALONE
    group = ProcessGroup(connected)
    group.outlive_the_launcher()
    return group


def divided(batch_size: int, gradient_accumulation: int, num_processes: int) -> tuple[int, int]:
    """Cut a step of the same rows into batches for several processes.

    Args:
        batch_size: rows of a forward pass of one process alone.
        gradient_accumulation: its forward passes per step.
        num_processes: number of processes.

    Returns:
        The rows of a forward pass, at most `batch_size`, and the passes per step. Their product is the same,
        and no process has more rows to do than if they were shared singly.
    """
    rows = batch_size * gradient_accumulation
    sizes = [size for size in range(1, batch_size + 1) if rows % size == 0]
    size = min(sizes, key=lambda size: (math.ceil(rows / size / num_processes) * size, -size))
    return size, rows // size


def _pieces(arrays: Mapping[str, mx.array]) -> Iterator[list[str]]:
    """Yield the sorted names in groups of about `BYTES_AT_ONCE`."""
    names: list[str] = []
    size = 0
    for name in sorted(arrays):
        if names and size + 4 * arrays[name].size > BYTES_AT_ONCE:
            yield names
            names, size = [], 0
        names.append(name)
        size += 4 * arrays[name].size
    yield names


@contextmanager
def _stop_after(seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer; a blocked sum cannot be interrupted otherwise."""

    def give_up() -> None:
        print(
            f"error: another process of the training has not answered for {seconds:,.0f} s and is taken for "
            "dead; run the same command again to resume from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    timer = threading.Timer(seconds, give_up) if seconds is not None else None
    if timer is None:
        yield
        return
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
