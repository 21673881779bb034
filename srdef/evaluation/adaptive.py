"""Accuracy of a defended classifier against attackers who know more and more of it.

Each *threat* names what the attacker knows and the attack; each is run at a list of ε against every
defense. Images are those that the undefended classifier classifies correctly, and an accuracy is the share
of them that classifier and defense together classify correctly. Random defenses are attacked without
stopping at the first success, which may be one lucky draw, and judged by the mean over fresh draws, never
those that the attack has seen.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from srdef import attacks, victims
from srdef.attacks.stepping import smaller_batch
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.measures import FLAGS, flags
from srdef.evaluation.memory_report import MemoryReport
from srdef.evaluation.programs import Programs, of_threats
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.evaluation.threats import BLIND, write_epsilon
from srdef.storage.fingerprint import digest
from srdef.storage.memory import Store
from srdef.victims import Defended, Victim

# The code that every result here depends on, beside attack and victim.
_CODE = (attacks.perturb, attacks.accuracy_over_draws, victims)


AdaptiveRun = Run[AdaptiveExperiment]


def shares(
    run: AdaptiveRun, defense: str, images: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The share of correct draws for versions of some rows: to choose, and to judge."""
    experiment, dataset = run.experiment, run.dataset
    victim = Defended(experiment.classifier, experiment.defenses[defense])
    draws = experiment.draws(defense)

    def share(purpose: int, draws: int) -> np.ndarray:
        return attacks.accuracy_over_draws(
            victim,
            images,
            dataset.labels[rows],
            key=experiment.key(purpose),
            ids=dataset.ids[rows],
            draws=draws,
            batch_size=experiment.batch_size,
        )

    if draws == 1:
        correct = share(1, 1)
        return correct, correct
    return share(2, draws // 2), share(1, draws - draws // 2)


def clean(run: AdaptiveRun, defense: str) -> tuple[np.ndarray, np.ndarray]:
    """The shares without an attack `(images,)`."""
    transformation = run.experiment.defenses[defense]

    def compute(rows: slice) -> dict[str, np.ndarray]:
        numbers = np.arange(rows.start, rows.stop)
        chosen, judged = shares(run, defense, run.dataset.batch(rows), numbers)
        return {"chosen": chosen, "judged": judged}

    store = run.stored(
        f"{defense}: {CLEAN}",
        "clean",
        (defense,),
        {"chosen": ((), np.float32), "judged": ((), np.float32)},
        compute,
        reads=True,
        code=(*_CODE, transformation),
        defense=digest(transformation),
        draws=run.experiment.draws(defense),
    )
    return store.read("chosen"), store.read("judged")


def perturb(
    run: AdaptiveRun, attack: attacks.Attack, victim: Victim, rows: np.ndarray
) -> attacks.AttackResult:
    """Attack some rows of one batch; few rows go in a smaller batch."""
    return attacks.perturb(
        attack,
        victim,
        run.dataset.batch(rows),
        run.dataset.labels[rows],
        key=run.experiment.attack_key,
        ids=run.dataset.ids[rows],
        batch_size=smaller_batch(run.experiment.batch_size, len(rows)),
        arithmetic=run.experiment.arithmetic,
    )


def blind(run: AdaptiveRun, label: str, epsilon: float) -> Store:
    """The adversarial images of a threat that does not look at the defense."""
    experiment = run.experiment
    attack = experiment.threats[label].make(epsilon, images=run.dataset.pixels)
    victim = experiment.victim(experiment.threats[label], next(iter(experiment.defenses)))
    assert victim is not None

    def compute(rows: slice) -> dict[str, np.ndarray]:
        result = perturb(run, attack, victim, np.arange(rows.start, rows.stop))
        return {"images": result.images, **flags(result)}

    name = write_epsilon(epsilon, experiment.norm)
    return run.stored(
        f"{label}, ε {name}",
        "adversarial",
        (label, name),
        {"images": (run.dataset.image_shape, np.float32), **{flag: ((), np.uint8) for flag in FLAGS}},
        compute,
        reads=True,
        code=(*_CODE, attack, victim),
        attack=digest(attack),
        victim=digest(victim),
        **experiment.steps_in,
    )


def attacked(run: AdaptiveRun, defense: str, label: str) -> Store | None:
    """The shares under one threat and its flags, `(images, epsilons)`; None where it makes no sense."""
    experiment = run.experiment
    threat, transformation = experiment.threats[label], experiment.defenses[defense]
    victim = experiment.victim(threat, defense)
    if victim is None:
        return None
    random, is_blind, count = transformation.random, threat.knows in BLIND, len(experiment.epsilons)
    made = [
        threat.make(epsilon, random and not is_blind, run.dataset.pixels)
        if threat.attacks_at(epsilon)
        else None
        for epsilon in experiment.epsilons
    ]
    before, _ = clean(run, defense)
    fields: dict[str, tuple[tuple[int, ...], Any]] = {
        **{name: ((count,), np.float32) for name in ("chosen", "judged")},
        **{name: ((count,), np.uint8) for name in FLAGS},
    }

    def compute(rows: slice) -> dict[str, np.ndarray]:
        numbers = np.arange(rows.start, rows.stop)
        found = {name: np.zeros((len(numbers), count), dtype) for name, (_, dtype) in fields.items()}
        # What is broken stays broken: the same image lies in every larger ball. Not so where that is the
        # word of a few draws, and for attackers who do not look at the defense.
        standing = before[rows] > 0
        for e, (epsilon, attack) in enumerate(zip(experiment.epsilons, made, strict=True)):
            where = np.arange(len(numbers)) if is_blind or random else np.flatnonzero(standing)
            if attack is None:
                found["chosen"][:, e] = found["judged"][:, e] = np.nan
                continue
            if not len(where):
                continue
            if is_blind:
                source = blind(run, label, epsilon)
                images = source.read_rows("images", rows)
                flagged = {name: source.read_rows(name, rows) for name in FLAGS}
            else:
                result = perturb(run, attack, victim, numbers[where])
                images, flagged = result.images, flags(result)
            found["chosen"][where, e], found["judged"][where, e] = shares(
                run, defense, images, numbers[where]
            )
            for name, values in flagged.items():
                found[name][where, e] = values
            standing = found["chosen"][:, e] > 0
        return found

    for epsilon in experiment.epsilons if is_blind else ():
        if threat.attacks_at(epsilon):
            blind(run, label, epsilon)
    return run.stored(
        f"{defense}: {label}",
        "shares",
        (defense, label),
        fields,
        compute,
        reads=not is_blind,
        code=(*_CODE, victim, transformation, made),
        attacks=[attack and digest(attack) for attack in made],
        victim=digest(victim),
        defense=digest(transformation),
        draws=experiment.draws(defense),
        **experiment.steps_in,
    )


def run(experiment: AdaptiveExperiment, folder: Path | None, reporter: Reporter) -> Outcome:
    """Run every threat against every defense; compute only what `folder` does not hold yet.

    Raises
    ------
    InputError
        If no image is classified correctly, or the folder cannot be written.
    """
    dataset = Run(experiment, experiment.dataset, folder, reporter).correct().dataset
    experiment = replace(experiment, batch_size=min(experiment.batch_size, len(dataset)))
    networks = (experiment.classifier, experiment.other, experiment.defenses)
    report = MemoryReport(reporter, experiment.batch_size, networks)
    jobs = of_threats(experiment, experiment.batch_size, dataset.image_shape)
    with Programs(jobs, report=report) as programs:
        return _run(Run(experiment, dataset, folder, reporter, programs.ahead_of))


def _run(correct: AdaptiveRun) -> Outcome:
    experiment, dataset = correct.experiment, correct.dataset
    chosen: dict[tuple[str, str], np.ndarray] = {}
    judged: dict[tuple[str, str], np.ndarray] = {}
    flagged: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    for defense in experiment.defenses:
        chosen[defense, CLEAN], judged[defense, CLEAN] = (
            np.repeat(share[:, None], len(experiment.epsilons), axis=1) for share in clean(correct, defense)
        )
        for threat in experiment.threats:
            if twin := experiment.twin(threat, defense):
                chosen[defense, threat] = chosen[defense, twin]
                judged[defense, threat] = judged[defense, twin]
                flagged[defense, threat] = flagged[defense, twin]
                continue
            store = attacked(correct, defense, threat)
            if store is not None:
                chosen[defense, threat] = store.read("chosen")
                judged[defense, threat] = store.read("judged")
                flagged[defense, threat] = {name: store.read(name).astype(bool) for name in FLAGS}
    return Outcome(
        len(dataset),
        experiment.epsilons,
        tuple(experiment.defenses),
        tuple(experiment.threats),
        chosen,
        judged,
        experiment.norm,
        flagged,
        experiment.arithmetic,
        dataset,
    )
