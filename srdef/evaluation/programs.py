"""Compile the programs of a run in threads, while those before them run, and add up what memory they need."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from typing import Any

from srdef import interrupts, victims
from srdef.attacks.compilation import precompile, precompile_accuracy
from srdef.attacks.counts import program_of
from srdef.cache import COMPILERS, compiler_count
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.memory_report import MemoryReport
from srdef.evaluation.predictions import precompile_defended, precompile_prediction
from srdef.evaluation.threats import BLIND, write_epsilon
from srdef.programs import may_overlap

Names = tuple[str, ...]
# Compiles, and returns the bytes that a batch needs on each device, if it can tell.
Job = Callable[[], int | None]


class Programs:
    """What a run will compile, by the stage that needs it, in the order of the run.

    Nothing is compiled for a run that is complete: it begins with the first stage that computes. On a GPU
    each stage compiles its own when it begins.

    Parameters
    ----------
    jobs : dict
        What compiles the programs of a stage, by the names of the stage.
    workers : int, optional
        Threads; default: one for each core but one.
    report : MemoryReport, optional
        Is told what memory each stage needs.
    """

    def __init__(
        self, jobs: dict[Names, Job], workers: int | None = None, report: MemoryReport | None = None
    ) -> None:
        self._jobs = jobs
        self._pool = ThreadPoolExecutor(workers or compiler_count(), COMPILERS)
        self._begun = False
        self._ahead = may_overlap()
        self._futures: dict[Names, Future[int | None]] = {}
        self._report = report

    def keep(self, wanted: Callable[[Names], bool]) -> None:
        """Leave out the stages that are not wanted, unless it has begun: of a run that is nearly complete."""
        if not self._begun:
            self._jobs = {stage: job for stage, job in self._jobs.items() if wanted(stage)}

    def ahead_of(self, stage: Names) -> None:
        """Compile what `stage` needs, unless a thread is at it; threads go on with what comes after it.

        Where compilation fails, the stage itself says why.
        """
        if not self._begun:
            self._begun = True
            order = list(self._jobs)
            first = order.index(stage) if stage in order else 0
            self._jobs = {name: self._jobs[name] for name in order[first:]}
            for name in self._jobs if self._ahead else ():
                if name != stage:
                    self._futures[name] = self._pool.submit(self._jobs[name])
        if stage in self._jobs and stage not in self._futures:
            self._here(stage)
        future = self._futures.get(stage)
        if future is not None and not future.done() and future.cancel():  # no thread has begun with it
            self._here(stage)
        elif future is not None:
            while not future.done():
                interrupts.check()
                wait_for([future], timeout=0.2)
        self._look()

    def _here(self, stage: Names) -> None:
        """Compile in this thread."""
        future: Future[int | None] = Future()
        with suppress(Exception):
            future.set_result(self._jobs[stage]())
        future.cancel()  # if it has failed
        self._futures[stage] = future

    def _look(self) -> None:
        """Report what is known by now."""
        if self._report is None:
            return
        done = {name: future for name, future in self._futures.items() if future.done()}
        for name, future in done.items():
            if not future.cancelled() and future.exception() is None:
                self._report.add(name, future.result())
        self._report.tell(len(self._jobs) - len(done))

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *_: object) -> None:
        """Begin with nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def of_all(jobs: Iterable[Job]) -> list[int]:
    """Compile everything and wait; the bytes that each needs, 0 of what cannot tell."""
    pool = ThreadPoolExecutor(compiler_count() if may_overlap() else 1, COMPILERS)
    try:
        futures = [pool.submit(job) for job in jobs]
        while wait_for(futures, timeout=0.2).not_done:
            interrupts.check()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    # What cannot be compiled says so when the run comes to it.
    return [0 if future.exception() else future.result() or 0 for future in futures]


def of_attacks(
    experiment: Experiment, batch_size: int, shape: tuple[int, ...], everything: bool = False
) -> dict[Names, Job]:
    """What compiles the attacks of an experiment, by the kind and names of the store that they fill.

    Attacks that differ in numbers alone share their programs; the first of them compiles these. Of an attack
    that runs others, only the first of these, unless `everything` is wanted.
    """
    victim = victims.Undefended(experiment.classifier)
    # Rounding too: what is kept as float32 is judged once more as 8 bits.
    options: dict[str, Any] = {
        "key": experiment.attack_key,
        "batch_size": batch_size,
        "storage": "uint8",
        "arithmetic": experiment.arithmetic,
        "everything": everything,
    }
    first: dict[Any, str] = {}
    for label, attack in experiment.attacks.items():
        first.setdefault(program_of(attack), label)
    return {
        ("adversarial", label): partial(precompile, experiment.attacks[label], victim, shape, **options)
        for label in first.values()
    }


def of_evaluation(
    experiment: Experiment, batch_size: int, shape: tuple[int, ...], everything: bool = False
) -> dict[Names, Job]:
    """What compiles the predictions and attacks of an experiment; `everything` as in `of_attacks`."""
    return {
        **of_predictions(experiment, batch_size, shape),
        **of_attacks(experiment, batch_size, shape, everything),
    }


def of_predictions(experiment: Experiment, batch_size: int, shape: tuple[int, ...]) -> dict[Names, Job]:
    """What compiles the defended predictions of an experiment: the same of clean and adversarial images."""
    return {
        ("predictions", CLEAN, label): partial(
            precompile_prediction, experiment, defense, shape, batch_size, experiment.passes.get(label, 1)
        )
        for label, defense in experiment.defenses.items()
    }


def of_threats(
    experiment: AdaptiveExperiment, batch_size: int, shape: tuple[int, ...], everything: bool = False
) -> dict[Names, Job]:
    """What compiles the threats of an adaptive experiment and their judges, by the store that they fill.

    `everything` as in `of_attacks`.
    """
    jobs: dict[Names, Job] = {}
    for label, defense in experiment.defenses.items():
        judge, draws = victims.Defended(experiment.classifier, defense), experiment.draws(label)
        jobs["clean", label] = partial(
            precompile_accuracy,
            judge,
            shape,
            key=experiment.key(1),
            batch_size=batch_size,
            draws=draws if draws == 1 else draws // 2,
        )
        for name, threat in experiment.threats.items():
            victim = experiment.victim(threat, label)
            epsilon = next(filter(threat.attacks_at, experiment.epsilons), None)
            if victim is None or epsilon is None or experiment.twin(name, label):
                continue
            # One adversarial image of an attacker who does not look at the defense serves all of them.
            blind = threat.knows in BLIND
            attack = threat.make(epsilon, defense.random and not blind, experiment.dataset.pixels)
            jobs.setdefault(
                ("adversarial", name, write_epsilon(epsilon, experiment.norm))
                if blind
                else ("shares", label, name),
                partial(
                    precompile,
                    attack,
                    victim,
                    shape,
                    key=experiment.attack_key,
                    batch_size=batch_size,
                    arithmetic=experiment.arithmetic,
                    everything=everything,
                ),
            )
    return jobs


def of_transfer(
    experiments: dict[str, Experiment], batch_size: int, shape: tuple[int, ...], everything: bool = False
) -> dict[Names, Job]:
    """What compiles a transfer matrix, by the label of the source and the names of the store.

    `everything` as in `of_attacks`. In the order in which they will run: what is asked of every
    defense, and every attack on all classifiers.
    """
    targets, first = list(experiments.values()), next(iter(experiments))
    jobs: dict[Names, Job] = {
        (first, "transfer", CLEAN, CLEAN, label): partial(
            precompile_defended, targets, label, shape, batch_size
        )
        for label in experiments[first].defenses
    }
    ahead = {
        label: of_attacks(experiment, batch_size, shape, everything)
        for label, experiment in experiments.items()
    }
    for stage in ahead[first]:
        jobs.update({(label, *stage): ahead[label][stage] for label in ahead})
    return jobs
