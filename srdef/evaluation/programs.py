"""Compile the programs of a run in threads, while those before them run."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from functools import partial

from srdef import interrupts, victims
from srdef.attacks.compilation import precompile
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.predictions import precompile_prediction

# A compiler thread for each core but the one that runs; more would only need more memory.
MOST_WORKERS = 12

Names = tuple[str, ...]


class Programs:
    """What a run will compile, by the stage that needs it, in the order of the run.

    Nothing is compiled for a run that is complete: it begins with the first stage that computes.

    Parameters
    ----------
    jobs : dict
        What compiles the programs of a stage, by the names of the stage.
    workers : int, optional
        Threads; default: one for each core but one.
    """

    def __init__(self, jobs: dict[Names, Callable[[], None]], workers: int | None = None) -> None:
        self._jobs = jobs
        cores = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(workers or min(max(cores - 1, 1), MOST_WORKERS), "compile")
        self._futures: dict[Names, Future[None]] = {}

    def ahead_of(self, stage: Names) -> None:
        """Wait for what `stage` needs if a thread is at it; the threads go on with what comes after it.

        What no thread has begun with is compiled by the stage itself, as it is where compilation failed: then
        the stage says why.
        """
        if not self._futures:
            order = list(self._jobs)
            for name in order[order.index(stage) + 1 :] if stage in order else order:
                self._futures[name] = self._pool.submit(self._jobs[name])
        future = self._futures.get(stage)
        if future is None or future.cancel():
            return
        while not future.done():
            interrupts.check()
            wait_for([future], timeout=0.2)

    def close(self) -> None:
        """Begin with nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def of_gray_box(experiment: Experiment, shape: tuple[int, int, int]) -> Iterator[Programs]:
    """The programs of the gray-box protocol for images of one shape, by `(kind, names)` of the stores."""
    size, key = experiment.batch_size, experiment.attack_key
    victim = victims.Undefended(experiment.classifier)
    jobs: dict[Names, Callable[[], None]] = {}
    for label, defense in experiment.defenses.items():
        jobs["predictions", CLEAN, label] = partial(
            precompile_prediction, experiment, defense, shape, size, experiment.passes.get(label, 1)
        )
    for label, attack in experiment.attacks.items():
        # Rounding too: what is kept as float32 is judged once more as 8 bits.
        jobs["adversarial", label] = partial(
            precompile, attack, victim, shape, key=key, batch_size=size, storage="uint8"
        )
    programs = Programs(jobs)
    try:
        yield programs
    finally:
        programs.close()
