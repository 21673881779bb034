"""The transfer matrix: attack each of several classifiers, and ask all of them, with and without a defense.

The images are those that all the classifiers classify correctly when clean and undefended, so that every cell
counts the same ones. The attacker knows one classifier, and no defense.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srdef import attacks
from srdef.attacks.arithmetic import Arithmetic, check_arithmetic
from srdef.attacks.base import Attack
from srdef.attacks.batch import Storage
from srdef.defenses import Defense, Identity
from srdef.errors import InputError, naming
from srdef.evaluation.experiment import (
    CLEAN,
    Experiment,
    check_batch_size,
    check_fields,
    check_whole,
    entry_of,
    load_dataset,
    make_classifier,
    make_defense,
    specification,
    subsections,
)
from srdef.evaluation.memory_report import MemoryReport
from srdef.evaluation.patch_banks import refuse_own_patches
from srdef.evaluation.predictions import defended_images, predict
from srdef.evaluation.programs import Programs, of_transfer
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.metrics import Rate, rate
from srdef.models.protocols import Classifier
from srdef.storage.fingerprint import digest

FIELDS = ("seed", "batch_size", "dataset", "classifiers", "attacks", "defenses", "columns", "rows")


@dataclass(frozen=True)
class Matrix:
    """What `run` leaves: how often each attack on each source fools each target.

    Attributes
    ----------
    images : int
        How many all the classifiers classify correctly.
    classifiers, attacks, defenses : tuple of str
        Labels, in order.
    cells : dict
        The `Rate` of misclassified images by (source, attack, target, defense). The source of the attack
        `CLEAN`, which leaves the images as they are, is "".
    arithmetic : str
        What the steps of the attacks were computed in.
    """

    images: int
    classifiers: tuple[str, ...]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    cells: dict[tuple[str, str, str, str], Rate]
    arithmetic: Arithmetic = "float32"

    def mean(self, attack: str, defense: str, *, itself: bool) -> float:
        """The mean share over the pairs of source and target: the same classifier, or another one."""
        return float(
            np.mean(
                [
                    self.cells[source, attack, target, defense].value
                    for source in self.classifiers
                    for target in self.classifiers
                    if (source == target) == itself
                ]
            )
        )


def resolve(config: dict[str, Any]) -> dict[str, Experiment]:
    """An experiment for each classifier, with the same images, attacks and defenses.

    Parameters
    ----------
    config : dict
        Plain data with the fields `FIELDS` (see `configs/transfer.py`). An attack that takes a bank of
        images gets those of the data set.

    Raises
    ------
    InputError
        For unknown or missing fields, names and options, or unreadable files.
    """
    check_fields(config, FIELDS, ("arithmetic",))
    check_arithmetic(config.get("arithmetic"))
    seed, batch_size = check_whole(config, "seed", 0), check_batch_size(config)
    entries = subsections(config, "classifiers")
    if len(entries) < 2:
        raise InputError("config.classifiers must be at least two, or nothing is transferred")
    classifiers = {label: make_classifier(entries, label) for label in entries}
    fields = {f"classifiers.{label}": classifier for label, classifier in classifiers.items()}
    named = {f"classifiers.{label}": entry for label, entry in entries.items()}
    dataset = load_dataset({**config, **named}, **fields)
    made: dict[str, Attack] = {}
    storage: dict[str, Storage] = {}
    for label in _chosen(config, "columns", "attacks"):
        if label == CLEAN:
            raise InputError(f"config.attacks: {CLEAN!r} is always there; choose another label")
        options = specification(config["attacks"], label)
        storage[label] = options.pop("storage", "uint8")
        with naming(entry_of("attacks", label)):
            made[label] = attacks.create_for(dataset.pixels, options.pop("name"), **options)

    def make(name: str, classifier: Classifier) -> Defense:
        refuse_own_patches(name, config["defenses"][name], specification(config, "dataset"))
        with naming(entry_of("defenses", name)):
            return make_defense(config["defenses"][name], classifier)

    return {
        label: Experiment(
            config={**config, "classifier": entries[label]},
            dataset=dataset,
            classifier=classifier,
            attacks=made,
            storage=storage,
            defenses={name: make(name, classifier) for name in _chosen(config, "rows", "defenses")},
            passes={},
            batch_size=min(batch_size, len(dataset)),
            seed=seed,
        )
        for label, classifier in classifiers.items()
    }


def _chosen(config: dict[str, Any], field: str, section: str) -> list[str]:
    """The labels of a section that `config.field` names, in its order; all of them if it is empty."""
    entries = subsections(config, section)
    for label in config[field]:
        if label not in entries:
            known = ", ".join(entries)
            raise InputError(f"config.{field}: config.{section} has no {label!r}; choose from: {known}")
    return list(config[field] or entries)


def run(experiments: dict[str, Experiment], folder: Path | None, reporter: Reporter) -> Matrix:
    """Attack every classifier and ask all of them; compute only what `folder` does not hold yet.

    Raises
    ------
    InputError
        If there is no image that all classifiers classify correctly, or the folder cannot be written.
    """
    first = next(iter(experiments.values()))
    dataset = first.dataset
    if (dataset.labels < 0).any():
        raise InputError("a transfer matrix needs the labels of its images")
    everything = Run(first, dataset, folder, reporter)
    targets = list(experiments.values())
    found = _predictions(everything, targets, CLEAN, CLEAN, None)
    correct = (found == dataset.labels[:, None]).all(axis=1)
    if not correct.any():
        raise InputError(f"none of the {len(dataset)} images is classified correctly by all classifiers")
    count = int(correct.sum())
    size = min(first.batch_size, count)
    networks = [(experiment.classifier, experiment.defenses) for experiment in experiments.values()]
    report = MemoryReport(reporter, size, networks)
    with Programs(of_transfer(experiments, size, dataset.image_shape), report=report) as programs:
        runs = {
            label: Run(
                replace(experiment, batch_size=size),
                dataset.select(correct),
                folder,
                reporter,
                partial(_ahead_of, programs, label),
            )
            for label, experiment in experiments.items()
        }
        programs.keep(lambda stage: stage[1] != "adversarial" or runs[stage[0]].lacks(*stage[1:]))
        return _run(experiments, runs)


def _ahead_of(programs: Programs, label: str, stage: tuple[str, ...]) -> None:
    programs.ahead_of((label, *stage))


def _run(experiments: dict[str, Experiment], runs: dict[str, Run]) -> Matrix:
    first = next(iter(experiments.values()))
    targets = list(experiments.values())
    dataset = next(iter(runs.values())).dataset
    labels = dataset.labels[:, None]
    cells: dict[tuple[str, str, str, str], Rate] = {}

    def fill(run: Run, source: str, attack: str) -> None:
        for defense in first.defenses:
            wrong = _predictions(run, targets, source or CLEAN, attack, defense) != labels
            for target, column in zip(experiments, wrong.T, strict=True):
                cells[source, attack, target, defense] = rate(column)

    fill(runs[next(iter(runs))], "", CLEAN)
    for attack in first.attacks:
        for source, attacked in runs.items():
            fill(attacked, source, attack)
    shares = tuple(runs), tuple(first.attacks), tuple(first.defenses), cells
    return Matrix(len(dataset), *shares, first.arithmetic)


def _predictions(
    attacked: Run, targets: list[Experiment], source: str, attack: str, defense: str | None
) -> np.ndarray:
    """What every target says of the images under an attack on one source, defended; None: undefended.

    Returns
    -------
    int array (images, targets)
    """
    protecting = [Identity() if defense is None else target.defenses[defense] for target in targets]
    digests = [digest(transformation) for transformation in protecting]
    ids, size = attacked.dataset.ids, attacked.experiment.batch_size

    def compute(rows: slice) -> dict[str, np.ndarray]:
        pixels, said = attacked.pixels(attack, rows), []
        defended: dict[str, Any] = {}  # most defenses are the same for all targets
        for target, transformation, name in zip(targets, protecting, digests, strict=True):
            if name not in defended:
                defended[name] = defended_images(
                    target, transformation, pixels, ids[rows], size, on_device=True
                )
            said.append(predict(target.classifier, defended[name], size))
        return {"prediction": np.stack(said, axis=1).astype(np.int32)}

    label = defense or "undefended"
    store = attacked.stored(
        label if attack == CLEAN else f"{attack} from {source}: {label}",
        "transfer",
        (source, attack, label),
        {"prediction": ((len(targets),), np.int32)},
        compute,
        code=(protecting, predict, *(target.classifier for target in targets)),
        source=attacked.source(attack),
        defenses=digests,
        targets=[target.classifier_digest for target in targets],
    )
    return store.read("prediction")
