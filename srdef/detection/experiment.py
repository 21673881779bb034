"""Section 4.1: a classifier of clean against adversarial images, and what it says of defended ones.

Data are pairs of a clean image and the same image under one attack that fools the classifier, from all
attacks of the configuration. All versions of an image, and all crops of it, are either trained on or tested
with, never both. What the network sees is rounded to 8 bits, so that float32 noise gives nothing away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from srdef import batching, images
from srdef.detection.network import ManifoldClassifier, detect
from srdef.detection.pairs import Pairs, area, pair_accuracy, rate_of, sources_of, split_by_image
from srdef.detection.threads import side_by_side
from srdef.detection.training import create, scores, train
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, FIELDS, Experiment, check_fields, refuse_passes, resolve
from srdef.evaluation.predictions import defended_images
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.interpret import features
from srdef.metrics import Rate
from srdef.storage import results
from srdef.storage.files import canonical_json, write_atomically
from srdef.storage.fingerprint import digest

# The options in `config.manifold`, all needed, and their types.
OPTIONS = {
    "test_share": float,
    "blocks": int,
    "hidden": int,
    "dropout": float,
    "learning_rate": float,
    "top_factor": float,
    "pairs_per_batch": int,
    "steps": int,
    "evaluate_every": int,
}

AS_THEY_ARE = "as they are"


def check(config: dict[str, Any]) -> dict[str, Any]:
    """The options of `config.manifold`.

    Raises
    ------
    InputError
        For fields that are unknown, missing or of another type, and attacks that are not kept in 8 bits.
    """
    check_fields(config, (), (*FIELDS, "manifold", "study"))
    options = config.get("manifold")
    if not isinstance(options, dict) or set(options) != set(OPTIONS):
        raise InputError(f"config.manifold must have the fields {', '.join(OPTIONS)}")
    for name, kind in OPTIONS.items():
        value = options[name]
        if not isinstance(value, (int, float) if kind is float else int) or not value > 0:
            raise InputError(f"config.manifold.{name} must be a positive {kind.__name__}, not {value!r}")
    if options["dropout"] >= 1:
        raise InputError(f"config.manifold.dropout must be below 1, not {options['dropout']}")
    for label, attack in config.get("attacks", {}).items():
        if isinstance(attack, dict) and attack.get("storage") != "uint8":
            raise InputError(f"attack {label!r}: the manifold classifier needs storage 'uint8'")
    return options


def adversarial(
    run: Run, attack: str, rows: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """The images under an attack (or `CLEAN`), `(N, H, W, 3)`, and which of them fool the classifier."""
    if attack == CLEAN:
        return run.dataset.batch(rows), np.ones(len(run.dataset), bool)[rows]
    store = run.adversarial(attack)
    return images.from_uint8(store.read("images")[rows]), store.read("success").astype(bool)[rows]


def _digest_of(run: Run, attack: str) -> str:
    return CLEAN if attack == CLEAN else digest(run.experiment.attacks[attack])


def feature_maps(run: Run, attack: str, endpoint: str) -> tuple[np.ndarray, np.ndarray]:
    """Feature maps of the images under an attack, computed once and kept, and which images fool."""
    pixels, fooled = adversarial(run, attack)
    experiment = run.experiment
    shape = features.endpoint_shapes(experiment.classifier, pixels.shape[1:])[endpoint]

    def compute(rows: slice) -> dict[str, np.ndarray]:
        maps = features.feature_maps(
            experiment.classifier, pixels[rows], endpoint, batch_size=experiment.batch_size
        )
        return {"features": maps}

    store = run.stored(
        f"features of {attack}",
        "features",
        (attack, endpoint),
        {"features": (shape, np.float32)},
        compute,
        code=(experiment.attacks.get(attack), features),
        endpoint=endpoint,
        attack=_digest_of(run, attack),
    )
    return store.read("features"), fooled


def defended_scores(
    run: Run, model: ManifoldClassifier, attack: str, defense: str, pixels: np.ndarray
) -> np.ndarray:
    """Logits `(N,)` of the images of a run under an attack, then a defense, in 8 bits; kept."""
    experiment, transformation = run.experiment, run.experiment.defenses[defense]

    def compute(batch: slice) -> dict[str, np.ndarray]:
        ids, size = run.dataset.ids[batch], experiment.batch_size
        defended = defended_images(experiment, transformation, pixels[batch], ids, size)
        rounded = images.from_uint8(images.to_uint8(defended))
        return {"logits": batching.map_batches(detect, (model,), (rounded,), batch_size=size)}

    store = run.stored(
        f"{attack}: {defense}",
        "scores",
        (attack, defense),
        {"logits": ((), np.float32)},
        compute,
        code=(experiment.attacks.get(attack), transformation, defended_images, detect),
        attack=_digest_of(run, attack),
        defense=digest(transformation),
        detector=digest(model),
    )
    return store.read("logits")


@dataclass(frozen=True)
class Result:
    """What the detector says of the test images.

    Attributes
    ----------
    images, pairs : dict
        How many were trained on (those of at least one pair) and tested with.
    accuracy, auc : float
        The mean accuracy over the images of the pairs, half of them clean (0.5 for a coin); the area under
        the ROC curve over clean and adversarial test images.
    clean : Rate
        Clean images that are called clean.
    attacks : dict
        For each attack the `Rate` of images called adversarial, and its own area; nan if it fools none.
    called_clean : dict
        By defense (`AS_THEY_ARE` first) and attack (`CLEAN` first), the `Rate` called clean.
    grouped : bool
        Whether several test images are of one source image; see `pairs.rate_of`.
    """

    images: dict[str, int]
    pairs: dict[str, int]
    accuracy: float
    auc: float
    clean: Rate
    attacks: dict[str, tuple[Rate, float]]
    called_clean: dict[str, dict[str, Rate]]
    grouped: bool = False


def run(
    config: dict[str, Any],
    workdir: Path,
    reporter: Reporter,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    overwrite: bool = False,
) -> Result | None:
    """Attack, compute features, train, test; what `workdir` already holds is not done again.

    Many processes share the attacks; the rest is done by the first, and the others return None.

    Parameters
    ----------
    config : dict
        As in `configs/manifold.py`.
    workdir : Path
        Receives `store/`, `checkpoints/`, `metrics.jsonl`, `config.json`, `training.json` (what the
        checkpoints depend on) and `images.json` (the names of the images in `train` and `test`).
    reporter : Reporter
    report : callable
        Called with the record of each evaluation in training.
    overwrite : bool
        Whether the results of another configuration in `workdir` are deleted, and not an error.

    Raises
    ------
    InputError
        For bad fields, a folder of another configuration or training, or data that give no pairs.
    """
    options = check(config)
    experiment = start(config, workdir, overwrite)
    model = create(experiment.classifier, options, experiment.seed)
    correct = Run(experiment, experiment.dataset, workdir / "store", reporter).correct()
    for attack in (attacks := list(experiment.attacks)):
        correct.adversarial(attack)
    if not reporter.processes.first:
        return None
    correct = correct.alone()
    sources = sources_of(correct.dataset)
    train_rows, test_rows = split(correct, sources, options["test_share"], workdir)
    clean, _ = feature_maps(correct, CLEAN, model.endpoint)
    maps, fooled = zip(*(feature_maps(correct, attack, model.endpoint) for attack in attacks), strict=True)
    pairs = Pairs(np.stack([clean, *maps]), np.stack(fooled))
    training, testing = pairs.select(train_rows), pairs.select(test_rows)
    seed = experiment.seed
    model.detector = train(model.detector, training, testing, options, seed, workdir, reporter, report)
    size = 4 * options["pairs_per_batch"]
    return judge(correct, model, training, testing, test_rows, sources, attacks, size)


def start(config: dict[str, Any], workdir: Path, overwrite: bool) -> Experiment:
    """Resolve the configuration, and write it to `workdir`.

    Raises
    ------
    InputError
        If the folder has a run of another configuration, which may not be overwritten, or for `passes`.
    """
    refuse_passes(experiment := resolve({name: config[name] for name in FIELDS if name in config}))
    if not overwrite and (workdir / "config.json").exists() and not results.is_of(workdir, config):
        raise InputError(f"{workdir} holds a run of another configuration; choose another --workdir")
    results.begin(workdir, config)
    return experiment


def split(run: Run, sources: list[str], test_share: float, workdir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and to test with, whose names are written to `images.json`."""
    names, parts = run.dataset.names, split_by_image(sources, test_share, run.experiment.seed)
    named = {part: [names[row] for row in rows] for part, rows in zip(("train", "test"), parts, strict=True)}
    write_atomically(workdir / "images.json", canonical_json(named) + "\n")
    return parts


def judge(
    run: Run,
    model: ManifoldClassifier,
    training: Pairs,
    testing: Pairs,
    test_rows: np.ndarray,
    sources: list[str],
    attacks: Sequence[str],
    batch_size: int,
    workers: int = 1,
) -> Result:
    """What a trained detector says of the test images, as they are and behind every defense.

    Parameters
    ----------
    run : Run
        About the images that `test_rows` are positions of.
    model : ManifoldClassifier
    training, testing : Pairs
    test_rows : (N,) int
    sources : list of str
        For each image of the run, what it was cut from.
    attacks : sequence of str
        In the order of the pairs.
    batch_size : int
        Of feature maps.
    workers : int
        How many defenses at the same time.
    """
    clean_logits, adversarial_logits = scores(model.detector, testing, batch_size)
    its = np.array([sources[row] for row in test_rows])
    per_attack = {}
    called: dict[str, dict[str, Rate]] = {AS_THEY_ARE: {CLEAN: rate_of(clean_logits <= 0, its)}}
    for attack, logits, fools in zip(attacks, adversarial_logits, testing.fooled, strict=True):
        per_attack[attack] = (rate_of(logits[fools] > 0, its[fools]), area(clean_logits, logits[fools]))
        called[AS_THEY_ARE][attack] = rate_of(logits[fools] <= 0, its[fools])
    versions = {attack: adversarial(run, attack, test_rows) for attack in (CLEAN, *attacks)}
    tested = run.select(test_rows)

    def row(defense: str) -> dict[str, Rate]:
        return {
            attack: rate_of(defended_scores(tested, model, attack, defense, pixels)[fools] <= 0, its[fools])
            for attack, (pixels, fools) in versions.items()
        }

    defenses = list(run.experiment.defenses)
    called.update(
        zip(defenses, side_by_side([partial(row, name) for name in defenses], workers), strict=True)
    )
    return Result(
        # An image that no attack fools with is in no pair.
        images={"train": int(training.fooled.any(axis=0).sum()), "test": len(test_rows)},
        pairs={"train": int(training.fooled.sum()), "test": int(testing.fooled.sum())},
        accuracy=pair_accuracy(clean_logits, adversarial_logits, testing.fooled),
        auc=area(clean_logits, adversarial_logits[testing.fooled]),
        clean=called[AS_THEY_ARE][CLEAN],
        attacks=per_attack,
        called_clean=called,
        grouped=len(set(its)) < len(its),
    )
