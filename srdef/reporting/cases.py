"""The images that figures are made of: clean ones that are classified correctly, attacked, defended."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from srdef import attacks, defenses, images, victims
from srdef.datasets import Dataset
from srdef.evaluation import gray_box
from srdef.evaluation.experiment import CLEAN, Experiment, resolve
from srdef.reporting.plots import View

SHARED = ("seed", "batch_size", "dataset", "classifier", "attacks", "defenses")


@dataclass(frozen=True)
class Cases:
    """Images under the attacks and defenses of a configuration, made when they are asked for.

    Attributes
    ----------
    experiment : Experiment
        The resolved configuration.
    dataset : Dataset
        The images that the classifier has right when they are clean.
    """

    experiment: Experiment
    dataset: Dataset

    @classmethod
    def create(cls, config: dict[str, Any], count: int | None = None) -> "Cases":
        """From the fields `SHARED` of a configuration; at most the first `count` clean-correct images.

        Raises
        ------
        InputError
            For bad fields, or if the classifier has none of the images right.
        """
        fields = {name: config[name] for name in SHARED if name in config}
        experiment = resolve({**fields, "gallery": {"attack": "", "images": 0}})
        predicted = gray_box.predict(experiment.classifier, experiment.dataset.images, experiment.batch_size)
        dataset, right = gray_box.labelled(experiment.dataset, predicted, experiment.classifier_name)
        return cls(experiment, dataset.select(right).select(slice(count)))

    def select(self, rows: np.ndarray | slice) -> "Cases":
        """Only the images that `rows` picks, none of them attacked yet."""
        return Cases(self.experiment, self.dataset.select(rows))

    @cached_property
    def _memory(self) -> dict[tuple[str, str], np.ndarray]:
        return {}

    def attacked(self, label: str) -> np.ndarray:
        """All images under the attack `label`; `CLEAN`: as they are."""
        if label == CLEAN:
            return self.dataset.images
        if (label, "") not in self._memory:
            experiment, dataset = self.experiment, self.dataset
            self._memory[label, ""] = attacks.perturb(
                experiment.attacks[label],
                victims.Undefended(experiment.classifier),
                *dataset,
                key=experiment.attack_key,
                ids=dataset.ids,
                batch_size=experiment.batch_size,
                storage=experiment.storage[label],
            ).images
        return self._memory[label, ""]

    def defended(self, attack: str, defense: str) -> np.ndarray:
        """All images under `attack` (or clean), then defended; perhaps larger."""
        if (attack, defense) not in self._memory:
            self._memory[attack, defense] = defenses.apply(
                self.experiment.defenses[defense],
                self.attacked(attack),
                key=self.experiment.defense_key,
                ids=self.dataset.ids,
                batch_size=self.experiment.batch_size,
            )
        return self._memory[attack, defense]

    def predictions(self, pixels: np.ndarray) -> np.ndarray:
        """What the classifier says of any version of all images, `(N,)`."""
        return gray_box.predict(self.experiment.classifier, pixels, self.experiment.batch_size)

    def views(self, name: str, pixels: np.ndarray) -> list[View]:
        """One version of all images, with the classifier's answers."""
        names = self.dataset.class_names
        return [
            View(name, image, names[prediction], bool(prediction == label))
            for image, prediction, label in zip(
                pixels, self.predictions(pixels), self.dataset.labels, strict=True
            )
        ]


def enlarged_like(clean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Clean images in the size of `other`, by bicubic interpolation where that is larger."""
    if clean.shape == other.shape:
        return clean
    return np.asarray(images.resize(clean, *other.shape[1:3]))
