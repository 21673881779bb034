"""The images of a report page: read from the store of a finished evaluation, and shown as cards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from srdef import defenses, images
from srdef.datasets import Dataset
from srdef.errors import InputError
from srdef.evaluation.experiment import resolve
from srdef.evaluation.predictions import defended_images
from srdef.reporting.html import encode
from srdef.storage.store import read_array


@dataclass(frozen=True)
class Version:
    """One version of an image in the gallery: its name, an image in [0, 1], and what it is taken for."""

    name: str
    pixels: np.ndarray
    answer: str
    correct: bool


@dataclass(frozen=True)
class Case:
    """One image of the gallery under one attack: clean, adversarial, and defended in several ways."""

    label: str
    attack: str
    distance: float
    versions: Sequence[Version]


def find_store(workdir: Path, attack: str, strengths: Sequence[Mapping[str, Any]]) -> Path | None:
    """Find the folder of an attack's images that the run has named; None if it is not there."""
    for row in strengths:
        if row["attack"] == attack and "store" in row:
            store = workdir / "store" / "adversarial" / row["store"]
            return store if (store / "manifest.json").is_file() else None
    return None


def seconds_of(store: Path) -> float:
    """The seconds from the first to the last file of a store: how long a run without a break took."""
    times = [path.stat().st_mtime for path in store.rglob("*") if path.is_file()]
    return max(times) - min(times)


def images_of(dataset: Dataset, records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The clean images of some records; InputError if the data set has them no longer."""
    position = {int(i): row for row, i in enumerate(dataset.ids)}
    for record in records:
        if record["image_id"] not in position:
            raise InputError(
                f"the data set has no longer the image {record['image']!r} of the run; --images=0 leaves out "
                "all images"
            )
    return dataset.batch(np.array([position[record["image_id"]] for record in records], int))


def make_cases(
    workdir: Path,
    config: dict[str, Any],
    strengths: Sequence[Mapping[str, Any]],
    records: list[dict[str, Any]],
    attacks: Sequence[str],
    count: int,
) -> list[Case]:
    """Make the cards of the first `count` clean-correct images under each of `attacks`, with every defense.

    Raises
    ------
    InputError
        If an attack is not one of the run, its images are not in the store, or the configuration cannot
        be resolved here (a data set that is missing, say).
    """
    experiment = resolve(config)
    # In the order of their first record; a stored configuration is sorted by name.
    labels = dict.fromkeys(record["defense"] for record in records)
    names = {label: type(experiment.defenses[label]) for label in labels}
    plain = [label for label, kind in names.items() if kind is defenses.Identity]
    others = [label for label in names if label not in plain]
    said = {(r["attack"], r["defense"], r["image_id"]): r for r in records}
    classes = experiment.dataset.class_names
    for name in ("label", "prediction"):
        for record in records:
            if not 0 <= record[name] < len(classes):
                raise InputError(
                    f"{workdir / 'records.parquet'} is damaged ({name} is {record[name]}, and there are "
                    f"{len(classes)} classes): run srdef evaluate again"
                )
    cases = []
    for attack in attacks:
        if attack not in experiment.attacks:
            known = ", ".join(experiment.attacks)
            raise InputError(f"unknown attack {attack!r}; the run has: {known}")
        # In the order in which the run has written them: one record an image and defense.
        first = [r for r in records if r["attack"] == attack and r["defense"] == next(iter(names))]
        store = find_store(workdir, attack, strengths)
        if store is None:
            raise InputError(f"the images of {attack} are not in {workdir}/store: run srdef evaluate")
        first = first[:count]
        if not first:
            raise InputError(
                f"{workdir / 'records.parquet'} has no images under {attack}: run srdef evaluate again"
            )
        adversarial = read_array(store / "images", slice(len(first)))
        if adversarial.shape[1:] != experiment.dataset.image_shape or len(adversarial) != len(first):
            raise InputError(
                f"{store / 'images'} is damaged (of the shape {adversarial.shape}): run srdef evaluate again"
            )
        if adversarial.dtype == np.uint8:
            adversarial = images.from_uint8(adversarial)
        ids = np.array([record["image_id"] for record in first])
        clean = images_of(experiment.dataset, first)
        made = {
            label: defended_images(
                experiment, experiment.defenses[label], adversarial, ids, experiment.batch_size
            )
            for label in others
        }

        for row, record in enumerate(first):
            i = record["image_id"]

            def version(name: str, pixels: np.ndarray, found: dict[str, Any] | None, label: int) -> Version:
                if found is None:
                    return Version(name, pixels, "", False)
                prediction = found["prediction"]
                return Version(name, pixels, classes[prediction], prediction == label)

            label = record["label"]
            undefended = said.get((attack, plain[0], i)) if plain else None
            versions = [
                Version("clean", clean[row], classes[label], True),
                version("adversarial", adversarial[row], undefended, label),
                *(version(name, made[name][row], said.get((attack, name, i)), label) for name in others),
            ]
            cases.append(Case(classes[label], attack, record["linf"], versions))
    return cases


def gallery(cases: Sequence[Case]) -> str:
    """A card for each image: a slider between the clean image and the chosen version."""
    cards = []
    for number, case in enumerate(cases):
        buttons, layers = [], []
        for i, version in enumerate(case.versions):
            kind = "right" if version.correct else "wrong"
            mark = "✓" if version.correct else "✗"
            answer = f"{mark} {escape(version.answer)}" if version.answer else ""
            checked = " checked" if i == 1 else ""
            buttons.append(
                f'<label><input type=radio name="case{number}" value={i}{checked}>{escape(version.name)}'
                f"<span class={kind}>{answer}</span></label>"
            )
            hidden = "" if i <= 1 else " hidden"
            alternative = escape(f"{case.label}, {version.name}", quote=True)
            place = "base" if i == 0 else "over"
            layers.append(f'<img class={place} src="{encode(version.pixels)}" alt="{alternative}"{hidden}>')
        cards.append(
            f"<figure class=case><div class=frame>{''.join(layers)}<i class=edge></i></div>"
            f'<input class=slider type=range min=0 max=100 value=50 aria-label="how much of the clean image">'
            f"<figcaption><b>{escape(case.label)}</b> under {escape(case.attack)}, at most "
            f"{255 * case.distance:.3g}/255</figcaption><div class=choices>{''.join(buttons)}</div></figure>"
        )
    return f"<div class=gallery>{''.join(cards)}</div>"
