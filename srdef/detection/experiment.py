"""Section 4.1: a classifier of clean against adversarial images, and what it says of defended ones.

Data are pairs of a clean image and the same image under one attack that fools the classifier, from all
attacks of the configuration. All versions of an image are either trained on or tested with, never both.
Every image that the network sees is rounded to 8 bits, so that float32 noise gives nothing away.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdef import batching, defenses, images
from srdef.datasets import Dataset
from srdef.detection.network import ManifoldClassifier, detect
from srdef.detection.training import Pairs, create, pair_accuracy, scores, split_by_image, train
from srdef.errors import InputError
from srdef.evaluation import gray_box
from srdef.evaluation.experiment import CLEAN, Experiment, check_fields, resolve
from srdef.evaluation.gray_box import Evaluation
from srdef.evaluation.progress import Reporter
from srdef.interpret import features
from srdef.metrics import Rate, rate, roc_auc
from srdef.storage.files import canonical_json, without_nan, write_atomically
from srdef.storage.fingerprint import code_digest, digest
from srdef.storage.store import BatchStore

SHARED = ("seed", "batch_size", "dataset", "classifier", "attacks", "defenses")

# Of `config.manifold`: what must be there, and of which type.
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
    check_fields(config, (), (*SHARED, "manifold"))
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


@dataclass(frozen=True)
class Work:
    """An evaluation together with the images that it is about: the clean-correct ones."""

    evaluation: Evaluation
    dataset: Dataset

    @property
    def experiment(self) -> Experiment:
        return self.evaluation.experiment

    def attacked(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Images under an attack, `(N, H, W, 3)`, and which of them fool the classifier."""
        if attack == CLEAN:
            return self.dataset.images, np.ones(len(self.dataset), bool)
        store = self.evaluation.adversarial(attack, self.dataset)
        return images.from_uint8(store.read("images")), store.read("success").astype(bool)

    def features(self, attack: str, endpoint: str) -> tuple[np.ndarray, np.ndarray]:
        """Feature maps of the images under an attack, computed once and kept, and which ones fool."""
        pixels, fooled = self.attacked(attack)
        experiment = self.experiment
        shape = features.endpoint_shapes(experiment.classifier, pixels.shape[1:])[endpoint]
        store = BatchStore(
            self.evaluation.folder / "features",
            f"{attack}-{endpoint}",
            self.evaluation.manifest(
                "features",
                self.dataset,
                endpoint=endpoint,
                attack={} if attack == CLEAN else experiment.config["attacks"][attack],
                code=code_digest(experiment.classifier, experiment.attacks.get(attack), features),
            ),
            {"features": (shape, np.float32)},
            len(self.dataset),
            experiment.batch_size,
        )

        def compute(rows: slice) -> dict[str, np.ndarray]:
            maps = features.feature_maps(
                experiment.classifier, pixels[rows], endpoint, batch_size=experiment.batch_size
            )
            return {"features": maps}

        self.evaluation.reporter.complete(f"features of {attack}", store, compute)
        return store.read("features"), fooled

    def defended_scores(
        self, model: ManifoldClassifier, attack: str, defense: str, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits of images under an attack and a defense, in 8 bits, kept, and which ones fooled before."""
        experiment = self.experiment
        pixels, fooled = self.attacked(attack)
        dataset, transformation = self.dataset.select(rows), experiment.defenses[defense]
        store = BatchStore(
            self.evaluation.folder / "scores",
            f"{attack}-{defense}",
            self.evaluation.manifest(
                "scores",
                dataset,
                attack={} if attack == CLEAN else experiment.config["attacks"][attack],
                defense=digest(transformation),
                detector=digest(model),
                code=code_digest(
                    experiment.classifier, experiment.attacks.get(attack), transformation, defenses, detect
                ),
            ),
            {"logits": ((), np.float32)},
            len(dataset),
            experiment.batch_size,
        )

        def compute(batch: slice) -> dict[str, np.ndarray]:
            defended = defenses.apply(
                transformation,
                pixels[rows[batch]],
                key=experiment.defense_key,
                ids=dataset.ids[batch],
                batch_size=experiment.batch_size,
            )
            rounded = images.from_uint8(images.to_uint8(defended))
            logits = batching.map_batches(detect, (model,), (rounded,), batch_size=experiment.batch_size)
            return {"logits": logits}

        self.evaluation.reporter.complete(f"{attack}: {defense}", store, compute)
        return store.read("logits"), fooled[rows]


@dataclass(frozen=True)
class Result:
    """What the detector says of the test images.

    Attributes
    ----------
    images, pairs : dict
        How many were trained on and tested with.
    accuracy, auc : float
        The mean accuracy over the images of the pairs, half of them clean (0.5 for a coin); the area under
        the ROC curve over clean and attacked test images.
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

    def to_json(self) -> str:
        """All numbers; null for a share of no images."""
        numbers = {
            "images": self.images,
            "pairs": self.pairs,
            "pair_accuracy": self.accuracy,
            "roc_auc": self.auc,
            "clean_called_clean": self.clean._asdict(),
            "attacks": {
                label: {"called_adversarial": found._asdict(), "roc_auc": area}
                for label, (found, area) in self.attacks.items()
            },
            "called_clean": {
                defense: {attack: found._asdict() for attack, found in row.items()}
                for defense, row in self.called_clean.items()
            },
        }
        return canonical_json(without_nan(numbers))

    def to_markdown(self) -> str:
        """How good the detector is, and how many defended images it calls clean."""
        labels = list(self.attacks)
        lines = [
            f"**Manifold classifier.** Trained on {self.pairs['train']} pairs of {self.images['train']} "
            f"images, tested with {self.pairs['test']} pairs of {self.images['test']} others: mean accuracy "
            f"over the images of the pairs {100 * self.accuracy:.1f} % (a coin: 50 %), ROC-AUC "
            f"{self.auc:.4f} (the paper: 99.6 % on its own data).",
            "",
            "| | " + " | ".join(labels) + " |",
            "|---" + "|---:" * len(labels) + "|",
            "| called adversarial (%) | " + " | ".join(_cell(self.attacks[a][0]) for a in labels) + " |",
            "| ROC-AUC | " + " | ".join(_number(self.attacks[a][1], 3) for a in labels) + " |",
            "",
            "**Share called clean (%).**",
            "",
            "| | clean | all attacks | " + " | ".join(labels) + " |",
            "|---" + "|---:" * (len(labels) + 2) + "|",
        ]
        for defense, row in self.called_clean.items():
            found = [row[label] for label in labels]
            total = sum(cell.total for cell in found)
            share = 100 * sum(cell.successes for cell in found) / total if total else float("nan")
            cells = [_cell(row[CLEAN]), _number(share, 1), *(_cell(cell) for cell in found)]
            lines.append(f"| {defense} | " + " | ".join(cells) + " |")
        lines += [
            "",
            "In brackets 95 % Wilson intervals. Only attacked images that fool the classifier; all images "
            "in 8 bits. The column `clean` of a defense, and a row that only resizes, are the controls: a "
            "detector that answers to resampling moves there too. The paper: about 91 % of super-resolved "
            "adversarial images are called clean.",
        ]
        return "\n".join(lines) + "\n"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(found: Rate) -> str:
    if not found.total:
        return "–"
    return f"{100 * found.value:.1f} [{100 * found.low:.0f}–{100 * found.high:.0f}]"


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
    fields = {name: config[name] for name in SHARED if name in config}
    experiment = resolve({**fields, "gallery": {"attack": "", "images": 0}})
    model = create(experiment.classifier, options, experiment.seed)
    written, text = workdir / "config.json", canonical_json(config) + "\n"
    if written.exists() and written.read_text() != text:
        raise InputError(f"{workdir} holds a run of another configuration; choose another --workdir")
    write_atomically(written, text)

    evaluation = Evaluation(experiment, workdir / "store", reporter)
    predicted = gray_box.clean_predictions(evaluation)
    dataset, right = gray_box.labelled(experiment.dataset, predicted, experiment.classifier_name)
    dataset = dataset.select(right)
    train_rows, test_rows = split_by_image(len(dataset), options["test_share"], experiment.seed)
    split = {
        part: [dataset.names[row] for row in rows]
        for part, rows in (("train", train_rows), ("test", test_rows))
    }
    write_atomically(workdir / "images.json", canonical_json(split) + "\n")
    work = Work(evaluation, dataset)
    attacks = list(experiment.attacks)
    clean, _ = work.features(CLEAN, model.endpoint)
    maps, fooled = zip(*(work.features(attack, model.endpoint) for attack in attacks), strict=True)
    pairs = Pairs(clean, np.stack(maps), np.stack(fooled))
    training, testing = pairs.select(train_rows), pairs.select(test_rows)
    model.detector = train(model.detector, training, testing, options, experiment.seed, workdir, report)

    clean_logits, attacked_logits = scores(model.detector, testing, 4 * options["pairs_per_batch"])
    per_attack = {}
    called: dict[str, dict[str, Rate]] = {AS_THEY_ARE: {CLEAN: rate(clean_logits <= 0)}}
    for attack, logits, fools in zip(attacks, attacked_logits, testing.fooled, strict=True):
        both = np.concatenate([clean_logits, logits[fools]])
        area = roc_auc(both, np.arange(len(both)) >= len(clean_logits))
        per_attack[attack] = (rate(logits[fools] > 0), area)
        called[AS_THEY_ARE][attack] = rate(logits[fools] <= 0)
    for defense in experiment.defenses:
        called[defense] = {}
        for attack in (CLEAN, *attacks):
            logits, fools = work.defended_scores(model, attack, defense, test_rows)
            called[defense][attack] = rate(logits[fools] <= 0)
    every = np.concatenate([clean_logits, attacked_logits[testing.fooled]])
    return Result(
        images={"train": len(train_rows), "test": len(test_rows)},
        pairs={"train": int(training.fooled.sum()), "test": int(testing.fooled.sum())},
        accuracy=pair_accuracy(clean_logits, attacked_logits, testing.fooled),
        auc=roc_auc(every, np.arange(len(every)) >= len(clean_logits)),
        clean=rate(clean_logits <= 0),
        attacks=per_attack,
        called_clean=called,
    )
