"""The trainings of a study: detectors of more and more blocks, with more and more pairs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srdef.detection.network import ManifoldClassifier
from srdef.detection.pairs import Accuracy, Pairs, accuracy_of, area, pair_accuracy
from srdef.detection.training import scores, train
from srdef.evaluation.processes import Processes
from srdef.evaluation.progress import Reporter
from srdef.storage.files import canonical_json, write_atomically
from srdef.training.export import read_metrics


@dataclass(frozen=True)
class Setting:
    """One training: how many blocks of the network and how many pairs, and what came of it.

    Attributes
    ----------
    blocks, pairs : int
    accuracy : Accuracy
        On the test pairs.
    auc : float
        Area under the ROC curve over clean and adversarial test images.
    train_accuracy : float
        On the pairs that were trained on.
    """

    blocks: int
    pairs: int
    accuracy: Accuracy
    auc: float
    train_accuracy: float


@dataclass(frozen=True)
class Sweep:
    """The trainings of a study, each in its own folder of `workdir`: what is there is not done again.

    Parameters
    ----------
    config : dict
    workdir : Path
    models : dict
        By how many blocks are trained.
    parts : dict
        By endpoint the pairs to train on and to test with.
    sources : list of str
        For each image to test with, what it was cut from.
    seed : int
    reporter : Reporter
        Shows the trainings.
    report : callable, optional
        Called once with each setting.
    """

    config: dict[str, Any]
    workdir: Path
    models: dict[int, ManifoldClassifier]
    parts: dict[str, tuple[Pairs, Pairs]]
    sources: list[str]
    seed: int
    reporter: Reporter
    report: Callable[[Setting], None] | None = None
    _reported: set[tuple[int, int]] = field(default_factory=set, init=False)

    @property
    def counts(self) -> list[int]:
        """How many pairs are trained on: as many as there are, in the place of more."""
        training, _ = next(iter(self.parts.values()))
        available = int(training.fooled.sum())
        return sorted({min(count, available) for count in self.config["study"]["pairs"]})

    def pairs(self, blocks: int, count: int) -> tuple[Pairs, Pairs]:
        """The pairs to train on, and those to test with."""
        training, testing = self.parts[self.models[blocks].endpoint]
        return training.fewer(count, self.seed), testing

    def one(self, blocks: int, count: int) -> tuple[Setting, Any]:
        """The setting and the trained detector."""
        training, testing = self.pairs(blocks, count)
        options = {**self.config["manifold"], "blocks": blocks}
        folder = self.workdir / "trainings" / f"blocks{blocks}-pairs{count}"
        folder.mkdir(parents=True, exist_ok=True)
        # With these two files `training.load` can load it.
        write_atomically(folder / "config.json", canonical_json({**self.config, "manifold": options}) + "\n")
        write_atomically(folder / "images.json", (self.workdir / "images.json").read_bytes())
        title = f"training {blocks} blocks, {count} pairs"
        detector = train(
            self.models[blocks].detector,
            training,
            testing,
            options,
            self.seed,
            folder,
            self.reporter,
            title=title,
        )
        size = 4 * options["pairs_per_batch"]
        clean, attacked = scores(detector, testing, size)
        setting = Setting(
            blocks,
            count,
            accuracy_of(clean, attacked, testing.fooled, self.sources),
            area(clean, attacked[testing.fooled]),
            self._train_accuracy(folder, options["steps"], detector, training, size),
        )
        if self.report is not None and (blocks, count) not in self._reported:
            self._reported.add((blocks, count))
            self.report(setting)
        return setting, detector

    def _train_accuracy(self, folder: Path, steps: int, detector: Any, training: Pairs, size: int) -> float:
        """What the last record of the training says, which may have been lost since."""
        for record in read_metrics(folder / "metrics.jsonl", ("train_accuracy",)):
            if record["step"] == steps:
                return float(record["train_accuracy"])
        return pair_accuracy(*scores(detector, training, size), training.fooled)

    def row(self, blocks: int) -> list[tuple[Setting, Any]]:
        """All numbers of pairs."""
        return [self.one(blocks, count) for count in self.counts]

    def share(self, processes: Processes) -> None:
        """Do this process's part of all, the longest first; then `row` finds them in their folders."""
        pieces = [(blocks, count) for blocks in sorted(self.models, reverse=True) for count in self.counts]
        for number in processes.divide("trainings", len(pieces)):
            self.one(*pieces[number])
