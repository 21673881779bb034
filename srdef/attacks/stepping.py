"""The loop over the steps of an attack: in smaller batches as images are finished.

Whenever at most a quarter of a batch still needs steps, and many of them, the others go on in a batch of a
quarter of the size. A quarter and not a half, because each size is a program of its own to compile. The host
runs the loop: it has to see which images are finished, and it hears Ctrl-C.
"""

import time
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from srdef import interrupts
from srdef.attacks import programs
from srdef.attacks.arithmetic import Arithmetic, computing_in
from srdef.attacks.base import Attack
from srdef.attacks.counts import AttackRows
from srdef.attacks.trace import Recorder
from srdef.victims import Victim

# By how much a batch shrinks at least when finished images leave it.
SHRINK = 4

# Where fewer steps are left, a smaller batch saves less time than it takes to compile its program. By the
# number of steps and not by a clock, as the size of a batch decides how sums are rounded. On a GPU compiling
# takes a few hundred times as long as a step of a large network, on a CPU a few times.
FEWEST_STEPS = {"cpu": 1, "others": 200}


def is_looped(attack: Attack, sharding: Sharding) -> bool:
    """Whether the device takes several steps before the host looks again.

    Not for gradients on a CPU, where XLA takes twice as long for those of most convolutions within a loop.
    """
    return _platform(sharding) != "cpu" or not attack.uses_gradients


def _platform(sharding: Sharding) -> str:
    device: Any = next(iter(sharding.device_set))
    return device.platform


def run_steps(
    attack: Attack,
    every: AttackRows,
    victim: Victim,
    state: Any,
    finished: jax.Array,
    sharding: Sharding,
    recorder: Recorder | None = None,
    arithmetic: Arithmetic | None = None,
) -> Any:
    """Step until all images of a batch are finished, in smaller batches as fewer of them are left.

    Parameters
    ----------
    attack : Attack
    every : AttackRows
        The same attack, with one row per image.
    state : pytree
        One row per image; with the number of steps, as in `programs.steps`.
    finished : bool array (N,)
        Which images need no step.
    sharding : Sharding
        How a batch lies on the devices; its size stays a multiple of their number.
    recorder : Recorder, optional
        Looks at the state before the first step and after each.
    arithmetic
        Of the steps.

    Returns
    -------
    state : pytree
    """
    devices = len(sharding.device_set)
    looped = is_looped(attack, sharding)
    # Asking which images are finished waits for the device, so long attacks ask less often.
    patience = 1 if looped else max(attack.max_steps // 1000, 1) if attack.stops_early else attack.max_steps
    fewest = FEWEST_STEPS.get(_platform(sharding), FEWEST_STEPS["others"])
    everything, batch = state, every
    size = len(finished)
    rows = np.arange(size)  # where in `everything` the rows of `state` belong; `size` for padding
    pace = _Pace()
    needed = jax.device_put(rows < size, sharding)
    if recorder is not None:
        recorder(batch, state, rows)
    while not (done := np.asarray(finished) | (rows == size)).all():
        left = np.flatnonzero(~done)
        taken = int(np.asarray(state[1])[left].max())
        shrinks = attack.max_steps - taken >= fewest
        smaller = len(rows) // SHRINK // devices * devices
        if shrinks and smaller > 0 and len(left) <= smaller:
            everything = programs.put(everything, rows, state)
            while len(left) <= smaller // SHRINK // devices * devices:
                smaller = smaller // SHRINK // devices * devices
            rows = np.append(rows[left], np.full(smaller - len(left), size))
            kept = np.minimum(rows, size - 1)
            state, batch = programs.take((everything, every), kept, sharding=sharding)
            needed = jax.device_put(rows < size, sharding)
            pace = _Pace()
        enough = len(rows) // SHRINK // devices * devices if shrinks else 0
        for _ in range(patience):
            interrupts.check()
            with pace if looped else nullcontext(), computing_in(arithmetic):
                state, finished = programs.steps(
                    batch,
                    victim,
                    state,
                    needed,
                    pace.steps if recorder is None else 1,
                    enough,
                    looped=looped,
                    sharding=sharding,
                )
                if looped:
                    jax.block_until_ready(finished)
            if recorder is not None:
                recorder(batch, state, rows)
    return state if len(rows) == size else programs.put(everything, rows, state)


class _Pace:
    """How many steps the device takes until the host looks again: as many as it does in `SECONDS`.

    The first time is that of compilation and says nothing.
    """

    SECONDS = 0.1

    def __init__(self) -> None:
        self.steps = 1
        self._times: list[float] = []

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._started
        self._times.append(spent / self.steps)
        if len(self._times) > 1:
            self.steps = max(1, min(int(self.SECONDS / max(min(self._times[1:]), 1e-6)), 10_000))


def smaller_batch(batch_size: int, left: int) -> int:
    """The smallest batch that holds `left` images, of the sizes to which `perturb` shrinks `batch_size`.

    For callers that attack fewer and fewer of the same images: no other sizes are compiled.
    """
    while batch_size // SHRINK >= left:
        batch_size //= SHRINK
    return batch_size


def fitting_batch(batch_size: int, left: int) -> int:
    """The smallest batch that holds `left` images, of 8, 7, 6 or 5 eighths of `batch_size`, or of its half...

    For callers that begin another attack with the images that the last one has left. The programs of that
    attack are compiled in any case, and a row that only fills up its batch takes as long as an image.
    """
    if left >= batch_size:
        return batch_size
    while batch_size // 2 >= left:
        batch_size //= 2
    return next(size for eighths in (5, 6, 7, 8) if (size := -(-batch_size * eighths // 8)) >= left)
