"""A run: an experiment, the images that it is about, and what has been computed of it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from srdef import attacks, defenses, images, victims
from srdef.datasets import Dataset, ImagesOnDisk
from srdef.defenses.base import Defense
from srdef.errors import InputError
from srdef.evaluation.experiment import CLEAN, Experiment
from srdef.evaluation.measures import MEASURES, PREDICTION, measures
from srdef.evaluation.predictions import classify, defended_images, predict
from srdef.evaluation.processes import ALONE
from srdef.evaluation.progress import Reporter
from srdef.storage.fingerprint import digest
from srdef.storage.memory import MemoryStore, Store
from srdef.storage.store import BatchStore

E = TypeVar("E", bound=Experiment)
Compute = Callable[[slice], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Run(Generic[E]):
    """An experiment on the images of a data set; what is asked for is computed once and kept.

    Parameters
    ----------
    experiment : Experiment
    dataset : Dataset
        The images that it is about: all of the experiment, or some.
    folder : Path, optional
        Where results are kept and found again; None: in memory.
    reporter : Reporter
        Is told what is computed; the default is silent.
    before : callable, optional
        Called with the kind and names of a store before each of its batches is computed.
    """

    experiment: E
    dataset: Dataset
    folder: Path | None = None
    reporter: Reporter = field(default_factory=Reporter)
    before: Callable[[tuple[str, ...]], None] | None = None
    _kept: dict[tuple[str, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def select(self, rows: np.ndarray | slice) -> "Run[E]":
        """The same run about only the images that `rows` picks."""
        return replace(self, dataset=self.dataset.select(rows))

    def alone(self) -> "Run[E]":
        """The same run in this process only, when all others have done their share."""
        self.reporter.processes.finish()
        return replace(self, reporter=replace(self.reporter, processes=ALONE))

    @cached_property
    def dataset_digest(self) -> str:
        """The hash of the images, labels, names and ids.

        That of images on the disk is known when all have been read, which `first_reading` does.
        """
        pixels = self.dataset.pixels
        if isinstance(pixels, ImagesOnDisk) and not pixels.all_known:
            self.first_reading(pixels)
        return self.dataset.digest()

    def stored(
        self,
        title: str,
        kind: str,
        names: tuple[str, ...],
        fields: dict[str, tuple[tuple[int, ...], Any]],
        compute: Compute,
        *,
        reads: bool = False,
        code: tuple[Any, ...] = (),
        complete: bool = True,
        **parts: Any,
    ) -> Store:
        """The store of one kind of result, complete.

        Parameters
        ----------
        title : str
            What the reporter says.
        kind : str
            The folder of the store.
        names : tuple of str
            Which of its kind: attack, defense and so on.
        fields : mapping of name to (shape of one image's entry, dtype)
        compute : callable
            Computes the fields of some rows.
        reads : bool
            Whether it asks the data set for these rows: then they are read ahead.
        complete : bool
            Otherwise the store is as it is.
        code : tuple
            Objects whose source the result depends on, beside the classifier's.
        **parts
            Plain data that the result depends on, beside classifier, images and seed; `dataset`, if the
            digest of the images is not known yet.
        """
        if (kind, *names) not in self._kept:
            store: Store
            label, count, size = "-".join(names), len(self.dataset), self.experiment.batch_size
            if self.folder is None:
                store = MemoryStore(label, fields, count, size)
            else:
                if "dataset" not in parts:
                    parts["dataset"] = self.dataset_digest
                manifest = {**self.experiment.manifest(kind, code), **parts}
                store = BatchStore(self.folder / kind, label, manifest, fields, count, size)
            if not complete:
                return store
            pixels = self.dataset.pixels
            ahead = pixels.ahead if reads and isinstance(pixels, ImagesOnDisk) else None
            self.reporter.complete(title, store, partial(self._compute, compute, (kind, *names)), ahead)
            self._kept[kind, *names] = store
        return self._kept[kind, *names]

    def _compute(self, compute: Compute, stage: tuple[str, ...], rows: slice) -> dict[str, np.ndarray]:
        if self.before is not None:
            self.before(stage)
        return compute(rows)

    def source(self, attack: str) -> str:
        """What identifies the images under `attack`: the digest of the data, or that of their store."""
        return self.dataset_digest if attack == CLEAN else self.adversarial(attack).digest

    def first_reading(self, pixels: ImagesOnDisk) -> Store:
        """The hash of every image on the disk, and what the undefended classifier says of it, in one pass.

        The next run finds them by size and time of modification of the files, and need not read these.
        """

        def compute(rows: slice) -> dict[str, np.ndarray]:
            found = self._classify(defenses.Identity(), 1, self.pixels(CLEAN, rows), rows)
            return {"hash": pixels.hashes(rows), **found}

        store = self.stored(
            "clean: undefended",
            "images",
            (CLEAN,),
            {"hash": ((32,), np.uint8), **PREDICTION},
            compute,
            reads=True,
            code=(defenses.Identity(), classify),
            dataset=pixels.signature(),
        )
        pixels.know(store.read("hash"))
        return store

    def _classify(
        self, defense: Defense, passes: int, pixels: np.ndarray, rows: slice
    ) -> dict[str, np.ndarray]:
        experiment = self.experiment
        return classify(experiment, defense, pixels, self.dataset.ids[rows], experiment.batch_size, passes)

    def predictions(self, attack: str, defense: str | None) -> dict[str, np.ndarray]:
        """Prediction and confidence of the images under `attack` (or `CLEAN`), defended; None: undefended."""
        store = self._predictions(attack, defense)
        return {name: store.read(name) for name in PREDICTION}

    def _predictions(self, attack: str, defense: str | None, *, complete: bool = True) -> Store:
        experiment = self.experiment
        transformation = defenses.Identity() if defense is None else experiment.defenses[defense]
        passes = 1 if defense is None else experiment.passes.get(defense, 1)

        def compute(rows: slice) -> dict[str, np.ndarray]:
            return self._classify(transformation, passes, self.pixels(attack, rows), rows)

        pixels, plain = self.dataset.pixels, isinstance(transformation, defenses.Identity) and passes == 1
        if attack == CLEAN and plain and isinstance(pixels, ImagesOnDisk):
            return self.first_reading(pixels)
        label = defense or "undefended"
        return self.stored(
            f"{attack}: {label}",
            "predictions",
            (attack, label),
            PREDICTION,
            compute,
            reads=attack == CLEAN,
            code=(transformation, classify),
            complete=complete,
            source=self.source(attack),
            defense=digest(transformation),
            passes=passes,
        )

    def predict(self, pixels: np.ndarray) -> np.ndarray:
        """The undefended classifier's predictions of any version of the images, `(N,)`."""
        return predict(self.experiment.classifier, pixels, self.experiment.batch_size)

    def labelled(self) -> tuple["Run[E]", np.ndarray]:
        """The run with a label for each image, and which images are classified correctly when clean.

        Where a label is -1, the undefended classifier's prediction becomes the label.

        Raises
        ------
        InputError
            If no image is classified correctly.
        """
        experiment, dataset = self.experiment, self.dataset
        identities = (
            label
            for label, defense in experiment.defenses.items()
            if isinstance(defense, defenses.Identity) and experiment.passes.get(label, 1) == 1
        )
        predicted = self.predictions(CLEAN, next(identities, None))["prediction"]
        labels = np.where(dataset.labels < 0, predicted, dataset.labels).astype(np.int32)
        correct = predicted == labels
        if not correct.any():
            raise InputError(
                f"{experiment.classifier_name} classifies none of the {len(dataset)} images correctly: "
                "are the labels those of its classes?"
            )
        return replace(self, dataset=replace(dataset, labels=labels)), correct

    def correct(self) -> "Run[E]":
        """The run about only the images that the undefended classifier classifies correctly."""
        run, correct = self.labelled()
        return run.select(correct)

    def lacks(self, kind: str, *names: str) -> bool:
        """Whether something is left to compute of the adversarial images or predictions of these names."""
        if kind == "adversarial":
            return bool(self.adversarial(*names, complete=False).missing())
        return bool(self._predictions(*names, complete=False).missing())

    def adversarial(self, label: str, *, complete: bool = True) -> Store:
        """The adversarial images of the attack `label`, with `MEASURES`.

        With `complete=False` the store is as it is, perhaps without some batches.
        """
        experiment, dataset = self.experiment, self.dataset
        attack, storage = experiment.attacks[label], experiment.storage[label]
        victim = victims.Undefended(experiment.classifier)

        def compute(rows: slice) -> dict[str, np.ndarray]:
            result = attacks.perturb(
                attack,
                victim,
                dataset.batch(rows),
                dataset.labels[rows],
                key=experiment.attack_key,
                ids=dataset.ids[rows],
                batch_size=experiment.batch_size,
                storage=storage,
                arithmetic=experiment.arithmetic,
            )
            stored = images.to_uint8(result.images) if storage == "uint8" else result.images
            return {"images": stored, **measures(result)}

        return self.stored(
            f"attack {label}",
            "adversarial",
            (label,),
            {"images": (dataset.image_shape, np.dtype(storage)), **MEASURES},
            compute,
            reads=True,
            code=(victim, attack, attacks.batch),
            complete=complete,
            attack=digest(attack),
            storage=storage,
            **experiment.steps_in,
        )

    def rounded(self, label: str) -> Store:
        """`MEASURES` of the adversarial images of `label`, which are float32, had they been saved in 8 bits.

        Minimal-norm attacks lie far below one level, so that rounding alone would undo them: see
        `attacks.round_result`.
        """
        experiment, dataset = self.experiment, self.dataset

        def compute(rows: slice) -> dict[str, np.ndarray]:
            result = attacks.round_result(
                experiment.attacks[label],
                victims.Undefended(experiment.classifier),
                dataset.batch(rows),
                self.pixels(label, rows),
                dataset.labels[rows],
                key=experiment.attack_key,
                ids=dataset.ids[rows],
                batch_size=experiment.batch_size,
            )
            return measures(result)

        source = self.source(label)
        return self.stored(
            f"round {label}", "rounded", (label,), MEASURES, compute, reads=True, source=source
        )

    def pixels(self, attack: str, rows: slice | None = None) -> np.ndarray:
        """Images under `attack` (or `CLEAN`) as float32 in [0, 1]: all, or the rows of a batch."""
        if attack == CLEAN:
            return self.dataset.images if rows is None else self.dataset.batch(rows)
        store = self.adversarial(attack)
        stored = store.read("images") if rows is None else store.read_rows("images", rows)
        return images.from_uint8(stored) if stored.dtype == np.uint8 else stored

    def defended(self, attack: str, defense: str) -> np.ndarray:
        """All images under `attack` (or `CLEAN`), defended; perhaps larger, and kept in memory."""
        if ("defended", attack, defense) not in self._kept:
            self._kept["defended", attack, defense] = defended_images(
                self.experiment,
                self.experiment.defenses[defense],
                self.pixels(attack),
                self.dataset.ids,
                self.experiment.batch_size,
            )
        return self._kept["defended", attack, defense]
