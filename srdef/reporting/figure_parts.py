"""What all figures share: the run behind them, their titles, views and numbers."""

from pathlib import Path
from typing import Any

import numpy as np

from srdef.errors import InputError
from srdef.evaluation.experiment import FIELDS, refuse_passes, resolve
from srdef.evaluation.run import Run
from srdef.reporting.plots import View
from srdef.storage.files import canonical_json, for_json, write_atomically


def start(config: dict[str, Any]) -> Run:
    """The run of a figure: in memory, about the images that are classified correctly when clean."""
    refuse_passes(experiment := resolve({name: config[name] for name in FIELDS if name in config}))
    return Run(experiment, experiment.dataset).correct()


def only_entry(config: dict[str, Any], field: str) -> str:
    """The label of the only attack or defense."""
    if len(config[field]) != 1:
        raise InputError(
            f"{config['figure']}: config.{field} must have one entry, not {len(config[field])}: "
            f"{', '.join(config[field])}"
        )
    return next(iter(config[field]))


def write_numbers(folder: Path, name: str, numbers: dict[str, Any]) -> Path:
    """Write the numbers of a figure as JSON."""
    path = folder / f"{name}.json"
    write_atomically(path, canonical_json(for_json(numbers)) + "\n")
    return path


def title_of(run: Run, words: str) -> str:
    """The classifier, what the figure shows, and the seed."""
    return f"{run.experiment.classifier_name}, {words}, seed {run.experiment.seed}"


def views_of(run: Run, name: str, pixels: np.ndarray) -> list[View]:
    """One version of all images, with the classifier's answers."""
    names = run.dataset.class_names
    return [
        View(name, image, names[prediction], bool(prediction == label))
        for image, prediction, label in zip(pixels, run.predict(pixels), run.dataset.labels, strict=True)
    ]
