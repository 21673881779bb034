"""How good the detector of section 4.1 becomes with more pairs, and with more of the network trained.

Attacks and feature maps are computed once for all trainings; all of them are tested with the same images.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from srdef import batching, cores
from srdef.attacks.counts import program_of
from srdef.detection import joint
from srdef.detection.experiment import (
    Result,
    adversarial,
    check,
    judge,
    split,
    start,
)
from srdef.detection.network import ManifoldClassifier, detect
from srdef.detection.pairs import Accuracy, Pairs, accuracy_of, rate_of, sources_of
from srdef.detection.sweep import Setting, Sweep
from srdef.detection.threads import side_by_side
from srdef.detection.training import create, scores
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.metrics import Rate
from srdef.programs import jit, may_overlap
from srdef.storage.fingerprint import code_digest, digest


@dataclass(frozen=True)
class Study:
    """All settings, and more about the best of them.

    Attributes
    ----------
    settings : tuple of Setting
        By blocks, then by pairs.
    best : Setting
        With the highest accuracy on the test pairs; chosen by them, so that its own accuracy flatters it.
    result : Result
        What the detector of the best setting says.
    sources : dict
        From how many images the crops of `train` and `test` are cut.
    folders : dict
        Its accuracy on the crops from each folder.
    controls : dict
        For each perturbation that is no attack, the share of the test images that are called clean.
    both : dict
        See `joint.attack_both`.
    """

    settings: tuple[Setting, ...]
    best: Setting
    result: Result
    sources: dict[str, int]
    folders: dict[str, Accuracy]
    controls: dict[str, Rate]
    both: dict[str, dict[str, Rate]]


def run(
    config: dict[str, Any],
    workdir: Path,
    reporter: Reporter,
    report: Callable[[Setting], None] = lambda setting: None,
    overwrite: bool = False,
) -> Study | None:
    """Attack, compute features, train and test every setting; what `workdir` holds is not done again.

    Many processes share the attacks and the trainings; the rest is done by the first, and the others return
    None.

    Parameters
    ----------
    config : dict
        As in `configs/manifold.py`, with `study`.
    workdir : Path
        Receives `store/`, `config.json`, `images.json` and, under `trainings/`, a folder for each setting,
        which `training.load` can load.
    reporter : Reporter
    report : callable
        Called with each setting when it is trained.
    overwrite : bool
        Whether the results of another configuration in `workdir` are deleted, and not an error.

    Raises
    ------
    InputError
        For bad fields, a folder of another configuration or training, or data that give no pairs.
    """
    options, study = check(config), config["study"]
    attacks = [label for label in config["attacks"] if label not in study["controls"]]
    if not attacks or not set(study["controls"]) <= set(config["attacks"]):
        raise InputError(
            f"config.study.controls {', '.join(study['controls'])} must be some of config.attacks, not all: "
            f"{', '.join(config['attacks'])}"
        )
    experiment = start(config, workdir, overwrite)
    models = {blocks: _create(experiment, {**options, "blocks": blocks}) for blocks in study["blocks"]}
    correct = Run(experiment, experiment.dataset, workdir / "store", reporter).correct()
    processes = reporter.processes
    workers = _workers(processes.count)
    if workers > 1:  # a terminal shows one bar at a time: lines alone
        console = Console(
            file=reporter.console.file, quiet=reporter.console.quiet, force_terminal=False, markup=False
        )
        correct = replace(correct, reporter=Reporter(console))
    _attack(correct, reporter, workers)
    sources = sources_of(correct.dataset)
    train_rows, test_rows = split(correct, sources, options["test_share"], workdir)
    parts = _pairs(correct, attacks, models, (train_rows, test_rows))
    tested_of = [sources[row] for row in test_rows]
    settled = report if processes.first else None
    sweep = Sweep(config, workdir, models, parts, tested_of, experiment.seed, correct.reporter, settled)
    if processes.count > 1:
        sweep.share(processes)
        if not processes.first:
            return None
        correct = correct.alone()
    done = side_by_side([partial(sweep.row, blocks) for blocks in models], workers)
    settings = tuple(setting for row in done for setting, _ in row)
    best, detector = max((pair for row in done for pair in row), key=lambda pair: pair[0].accuracy.value)
    model = models[best.blocks]
    model.detector = detector
    training, testing = sweep.pairs(best.blocks, best.pairs)
    batch_size = 4 * options["pairs_per_batch"]
    clean, attacked = scores(detector, testing, batch_size)
    tested = correct.select(test_rows)
    judged, both = side_by_side(
        [
            partial(
                judge, correct, model, training, testing, test_rows, sources, attacks, batch_size, workers
            ),
            partial(joint.attack_both, tested, model, tested_of, **study["joint"]),
        ],
        workers,
    )
    return Study(
        settings,
        best,
        judged,
        {"train": len({sources[row] for row in train_rows}), "test": len(set(tested_of))},
        _by_folder(clean, attacked, testing.fooled, tested.dataset.names, tested_of),
        {label: _called_clean(correct, model, label, test_rows, tested_of) for label in study["controls"]},
        both,
    )


def _create(experiment: Experiment, options: dict[str, Any]) -> ManifoldClassifier:
    """A model whose detector shares nothing with those of the other settings, which are trained beside it."""
    model = create(experiment.classifier, options, experiment.seed)
    model.detector = nnx.clone(model.detector)
    return model


def _workers(processes: int) -> int:
    """How many attacks or trainings run at a time: many processes do all things in the same order."""
    return max(cores.usable() // 3, 1) if processes == 1 and may_overlap() else 1


def _attack(run: Run, reporter: Reporter, workers: int) -> None:
    """Compute the images under all attacks, those with the same program one after the other."""
    experiment = run.experiment
    # What every thread would work out again; and Python 3.11 parses source in one thread at a time only.
    _ = run.dataset_digest, experiment.classifier_digest
    code_digest(sys.modules[__name__], [*experiment.attacks.values(), *experiment.defenses.values()])
    programs: dict[Any, list[str]] = {}
    for label, attack in experiment.attacks.items():
        programs.setdefault(program_of(attack), []).append(label)

    def compute(labels: list[str]) -> None:
        for label in labels:
            fooled = run.adversarial(label).read("success")
            reporter.console.print(
                f"attack {label}: {int(fooled.sum())} of {len(fooled)} images fool the classifier",
                highlight=False,
            )

    side_by_side([partial(compute, labels) for labels in programs.values()], workers)


def _pairs(
    run: Run, attacks: list[str], models: dict[int, ManifoldClassifier], rows: tuple[np.ndarray, np.ndarray]
) -> dict[str, tuple[Pairs, Pairs]]:
    """By endpoint of a model the pairs of the images in each of the two parts."""
    endpoints = tuple(sorted({model.endpoint for model in models.values()}))
    maps, fooled = _feature_maps(run, (CLEAN, *attacks), endpoints)

    def part(endpoint: str, rows: np.ndarray) -> Pairs:
        found = maps[endpoint][:, rows]
        return Pairs(jnp.asarray(found), fooled[1:, rows], digest(found))

    return {endpoint: (part(endpoint, rows[0]), part(endpoint, rows[1])) for endpoint in endpoints}


@partial(jit, static_argnames="endpoints")
def _maps(classifier: Any, pixels: jax.Array, *, endpoints: tuple[str, ...]) -> dict[str, jax.Array]:
    """Feature maps by name; of the last one only the average, which is all that a new head sees of it."""
    maps = classifier.endpoints(pixels)
    maps[classifier.last_endpoint] = maps[classifier.last_endpoint].mean(axis=(1, 2), keepdims=True)
    return {name: maps[name] for name in endpoints}


def _feature_maps(
    run: Run, versions: tuple[str, ...], endpoints: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By endpoint the maps `(versions, N, h, w, C)` of all versions, and which of the images fool."""
    compute = partial(_maps, endpoints=endpoints)
    found: dict[str, list[np.ndarray]] = {name: [] for name in endpoints}
    fooled = []
    for version in versions:
        pixels, fools = adversarial(run, version)
        fooled.append(fools)
        maps = batching.map_batches(
            compute, (run.experiment.classifier,), (pixels,), batch_size=run.experiment.batch_size
        )
        for name in endpoints:
            found[name].append(maps[name])
    return {name: np.stack(maps) for name, maps in found.items()}, np.stack(fooled)


def _by_folder(
    clean: np.ndarray,
    attacked: np.ndarray,
    fooled: np.ndarray,
    names: Sequence[str],
    sources: list[str],
) -> dict[str, Accuracy]:
    folders = np.array([name.partition("/")[0] if "/" in name else "" for name in names])
    found = {}
    for folder in dict.fromkeys(folders.tolist()):
        rows = np.flatnonzero(folders == folder)
        if fooled[:, rows].any():
            its = [sources[row] for row in rows]
            found[folder] = accuracy_of(clean[rows], attacked[:, rows], fooled[:, rows], its)
    return found


def _called_clean(
    run: Run, model: ManifoldClassifier, label: str, rows: np.ndarray, sources: list[str]
) -> Rate:
    """The share of the images under a perturbation, fooling or not, that are called clean."""
    pixels, _ = adversarial(run, label, rows)
    logits = batching.map_batches(detect, (model,), (pixels,), batch_size=run.experiment.batch_size)
    return rate_of(logits <= 0, sources)
