"""Section 4.1: a classifier of clean against adversarial images, and what it says of defended ones.

Data are pairs of a clean image and the same image under one attack that fools the classifier, from all
attacks of the configuration. All versions of an image are either trained on or tested with, never both.
Every image that the network sees is rounded to 8 bits, so that float32 noise gives nothing away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdef import batching, images
from srdef.detection.network import ManifoldClassifier, detect
from srdef.detection.training import Pairs, create, pair_accuracy, scores, split_by_image, train
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, FIELDS, check_fields, resolve
from srdef.evaluation.predictions import defended_images
from srdef.evaluation.progress import Reporter
from srdef.evaluation.run import Run
from srdef.interpret import features
from srdef.metrics import Rate, rate, roc_auc
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
    check_fields(config, (), (*FIELDS, "manifold"))
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


def adversarial(run: Run, attack: str) -> tuple[np.ndarray, np.ndarray]:
    """The images under an attack (or `CLEAN`), `(N, H, W, 3)`, and which of them fool the classifier."""
    if attack == CLEAN:
        return run.dataset.images, np.ones(len(run.dataset), bool)
    return run.pixels(attack), run.adversarial(attack).read("success").astype(bool)


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
    run: Run, model: ManifoldClassifier, attack: str, defense: str, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of some images under an attack and a defense, in 8 bits, kept, and which fooled before."""
    experiment, chosen = run.experiment, run.select(rows)
    pixels, fooled = (array[rows] for array in adversarial(run, attack))
    transformation = experiment.defenses[defense]

    def compute(batch: slice) -> dict[str, np.ndarray]:
        ids, size = chosen.dataset.ids[batch], experiment.batch_size
        defended = defended_images(experiment, transformation, pixels[batch], ids, size)
        rounded = images.from_uint8(images.to_uint8(defended))
        return {"logits": batching.map_batches(detect, (model,), (rounded,), batch_size=size)}

    store = chosen.stored(
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
    return store.read("logits"), fooled


@dataclass(frozen=True)
class Result:
    """What the detector says of the test images.

    Attributes
    ----------
    images, pairs : dict
        How many were trained on and tested with.
    accuracy, auc : float
        The mean accuracy over the images of the pairs, half of them clean (0.5 for a coin); the area under
        the ROC curve over clean and adversarial test images.
    clean : Rate
        Clean images that are called clean.
    attacks : dict
        For each attack the `Rate` of images called adversarial, and its own area; nan if it fools none.
    called_clean : dict
        By defense (`AS_THEY_ARE` first) and attack (`CLEAN` first), the `Rate` called clean.
    """

    images: dict[str, int]
    pairs: dict[str, int]
    accuracy: float
    auc: float
    clean: Rate
    attacks: dict[str, tuple[Rate, float]]
    called_clean: dict[str, dict[str, Rate]]


def run(
    config: dict[str, Any],
    workdir: Path,
    reporter: Reporter,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
) -> Result:
    """Attack, compute features, train, test; what `workdir` already holds is not done again.

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

    Raises
    ------
    InputError
        For bad fields, a folder of another configuration or training, or data that give no pairs.
    """
    options = check(config)
    fields = {name: config[name] for name in FIELDS if name in config}
    experiment = resolve(fields)
    model = create(experiment.classifier, options, experiment.seed)
    written, text = workdir / "config.json", canonical_json(config) + "\n"
    if written.exists() and written.read_text() != text:
        raise InputError(f"{workdir} holds a run of another configuration; choose another --workdir")
    write_atomically(written, text)

    correct = Run(experiment, experiment.dataset, workdir / "store", reporter).correct()
    dataset = correct.dataset
    train_rows, test_rows = split_by_image(len(dataset), options["test_share"], experiment.seed)
    split = {
        part: [dataset.names[row] for row in rows]
        for part, rows in (("train", train_rows), ("test", test_rows))
    }
    write_atomically(workdir / "images.json", canonical_json(split) + "\n")
    attacks = list(experiment.attacks)
    clean, _ = feature_maps(correct, CLEAN, model.endpoint)
    maps, fooled = zip(*(feature_maps(correct, attack, model.endpoint) for attack in attacks), strict=True)
    pairs = Pairs(clean, np.stack(maps), np.stack(fooled))
    training, testing = pairs.select(train_rows), pairs.select(test_rows)
    model.detector = train(model.detector, training, testing, options, experiment.seed, workdir, report)

    clean_logits, adversarial_logits = scores(model.detector, testing, 4 * options["pairs_per_batch"])
    per_attack = {}
    called: dict[str, dict[str, Rate]] = {AS_THEY_ARE: {CLEAN: rate(clean_logits <= 0)}}
    for attack, logits, fools in zip(attacks, adversarial_logits, testing.fooled, strict=True):
        both = np.concatenate([clean_logits, logits[fools]])
        area = roc_auc(both, np.arange(len(both)) >= len(clean_logits))
        per_attack[attack] = (rate(logits[fools] > 0), area)
        called[AS_THEY_ARE][attack] = rate(logits[fools] <= 0)
    for defense in experiment.defenses:
        called[defense] = {}
        for attack in (CLEAN, *attacks):
            logits, fools = defended_scores(correct, model, attack, defense, test_rows)
            called[defense][attack] = rate(logits[fools] <= 0)
    every = np.concatenate([clean_logits, adversarial_logits[testing.fooled]])
    return Result(
        images={"train": len(train_rows), "test": len(test_rows)},
        pairs={"train": int(training.fooled.sum()), "test": int(testing.fooled.sum())},
        accuracy=pair_accuracy(clean_logits, adversarial_logits, testing.fooled),
        auc=roc_auc(every, np.arange(len(every)) >= len(clean_logits)),
        clean=rate(clean_logits <= 0),
        attacks=per_attack,
        called_clean=called,
    )
