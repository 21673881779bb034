"""Images that a classifier gets right, chosen once and kept as a list.

The paper attacks 5000 images of ImageNet's validation set for each classifier, such that the classifier
has every one of them right when it is clean. The images are drawn in an order that depends on the seed
alone, so that the same data, classifier and seed give the same list.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srdef.errors import InputError
from srdef.paths import expanded
from srdef.storage.files import write_atomically
from srdef.validation import check_count

# Reads images `(N, size, size, 3)`, labels and names at positions of a data set.
Read = Callable[[Sequence[int]], tuple[np.ndarray, np.ndarray, Sequence[str]]]


@dataclass(frozen=True)
class Selection:
    """A list of images of a data set.

    Attributes
    ----------
    dataset, size, crop
        What the images were read from, and how.
    classifier : str
        The network that has them all right, and `weights`, the hash of its weights.
    seed : int
        Of the order in which images were tried.
    tried : int
        How many were classified until enough were right.
    positions : list of int
        Of the images in the whole data set, in the order in which they were drawn.
    names, labels : list
        Of the same images.
    """

    dataset: str
    size: int | None
    crop: str
    classifier: str
    weights: str
    seed: int
    tried: int
    positions: list[int]
    names: list[str]
    labels: list[int]

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, which appears whole or not at all.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        path = expanded(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror})") from None
        write_atomically(path, json.dumps(asdict(self), indent=0) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "Selection":
        """From a file that `save` wrote.

        Raises
        ------
        InputError
            Names the file, if it cannot be read, or its lists are not what `save` writes.
        """
        file = expanded(path)
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            selection = cls(**content)
        except OSError as error:
            raise InputError(f"selection {path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError):
            raise InputError(f"selection {path}: not a list that experiments.select_images wrote") from None
        for field, kind, words in (
            ("positions", int, "whole numbers"),
            ("names", str, "strings"),
            ("labels", int, "whole numbers"),
        ):
            values = getattr(selection, field)
            # Exactly: True and False are also integers to Python.
            if not isinstance(values, list) or any(type(value) is not kind for value in values):
                raise InputError(f"selection {path}: its {field} must be a list of {words}")
        if not len(selection.positions) == len(selection.names) == len(selection.labels):
            raise InputError(f"selection {path}: its positions, names and labels differ in number")
        if len(set(selection.positions)) < len(selection.positions):
            raise InputError(f"selection {path}: a position stands there twice")
        return selection

    def check(self, path: str | Path, dataset: str, size: int | None, crop: str, length: int) -> None:
        """InputError unless this list, read from `path`, was made of a data set that is read as it is now."""
        for field, wanted in (("dataset", dataset), ("size", size), ("crop", crop)):
            made = getattr(self, field)
            if made != wanted:
                raise InputError(f"selection {path}: made with {field} {made!r}, not {wanted!r}")
        for position in self.positions:
            if not 0 <= position < length:
                raise InputError(f"selection {path}: image {position} of a data set with {length} images")

    def check_images(
        self, path: str | Path, names: Sequence[str], labels: Sequence[int], offset: int
    ) -> None:
        """InputError unless the images from `offset` on have these names and labels.

        A name may say little (`tfds` has the split and the position), so that labels tell data sets apart.
        """
        found = zip(names, labels, self.names[offset:], self.labels[offset:], strict=False)
        for name, label, wanted_name, wanted_label in found:
            if name != wanted_name:
                raise InputError(f"selection {path}: made of other images: {wanted_name!r} is now {name!r}")
            if label != wanted_label:
                raise InputError(
                    f"selection {path}: made of other images: {name!r} had label {wanted_label}, now {label}"
                )


def select_correct(
    predict: Callable[[np.ndarray], np.ndarray],
    read: Read,
    length: int,
    *,
    count: int,
    seed: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, list[int], list[str], list[int]]:
    """Draw images without replacement until `count` of them are classified correctly.

    Parameters
    ----------
    predict : callable
        Images `(N, size, size, 3)` to classes `(N,)`.
    read : callable
        Positions to images, labels and names.
    length : int
        Number of images in the data set.
    count : int
        How many to choose.
    seed : int
        Of the order.
    batch_size : int
        Images read and classified at a time; the result does not depend on it.
    progress : callable, optional
        Called after each batch with the numbers of images tried and found.

    Returns
    -------
    tried : int
        How many images it took, the last chosen one included.
    positions, names, labels : lists
        Of the chosen images, in the order of drawing: the first n of them are a choice of n.

    Raises
    ------
    InputError
        If fewer than `count` images of the whole data set are classified correctly.
    """
    check_count("count", count)
    order = np.random.default_rng(seed).permutation(length)
    found: list[tuple[int, int, str, int]] = []
    for start in range(0, length, batch_size):
        drawn = order[start : start + batch_size].tolist()
        images, labels, names = read(drawn)
        right = np.asarray(predict(images)) == labels
        for i in np.flatnonzero(right).tolist():
            found.append((start + i + 1, drawn[i], names[i], int(labels[i])))
        if progress is not None:
            progress(start + len(drawn), len(found))
        if len(found) >= count:
            tried, positions, chosen, classes = zip(*found[:count], strict=True)
            return tried[-1], list(positions), list(chosen), list(classes)
    raise InputError(f"only {len(found)} of the {length} images are classified correctly, {count} are wanted")
