"""Compile the programs of a run in threads, while those before them run."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from functools import partial
from typing import Any

import jax

from srdef import interrupts, victims
from srdef.attacks.compilation import precompile
from srdef.cache import COMPILERS, compiler_count
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.predictions import precompile_prediction

Names = tuple[str, ...]
Job = Callable[[], None]


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

    def __init__(self, jobs: dict[Names, Job], workers: int | None = None) -> None:
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(workers or compiler_count(), COMPILERS)
        self._futures: dict[Names, Future[None]] = {}

    def keep(self, wanted: Callable[[Names], bool]) -> None:
        """Leave out the stages that are not wanted, unless it has begun: of a run that is nearly complete."""
        if not self._futures:
            self._jobs = {stage: job for stage, job in self._jobs.items() if wanted(stage)}

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

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        """Begin with nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def of_attacks(experiment: Experiment, batch_size: int, shape: tuple[int, ...]) -> dict[Names, Job]:
    """What compiles the attacks of an experiment, by the kind and names of the store that they fill.

    Attacks that differ in numbers alone share their programs; the first of them compiles these.
    """
    victim = victims.Undefended(experiment.classifier)
    # Rounding too: what is kept as float32 is judged once more as 8 bits.
    options: dict[str, Any] = {
        "key": experiment.attack_key,
        "batch_size": batch_size,
        "storage": "uint8",
        "arithmetic": experiment.arithmetic,
    }
    first: dict[Any, str] = {}
    for label, attack in experiment.attacks.items():
        first.setdefault(jax.tree.structure(attack), label)
    return {
        ("adversarial", label): partial(precompile, experiment.attacks[label], victim, shape, **options)
        for label in first.values()
    }


def of_predictions(experiment: Experiment, batch_size: int, shape: tuple[int, ...]) -> dict[Names, Job]:
    """What compiles the defended predictions of an experiment: the same of clean and adversarial images."""
    return {
        ("predictions", CLEAN, label): partial(
            precompile_prediction, experiment, defense, shape, batch_size, experiment.passes.get(label, 1)
        )
        for label, defense in experiment.defenses.items()
    }
