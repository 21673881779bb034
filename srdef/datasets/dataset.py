"""What a data set is once its images can be asked for."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from srdef.datasets.on_disk import ImagesOnDisk
from srdef.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images; unpacks into `images, labels`.

    Attributes
    ----------
    pixels : (N, height, width, channels) float32
        In [0, 1]; RGB, if the data set does not say otherwise. Each value is one of the 256 levels k/255,
        but for arrays of floats. In memory, or `ImagesOnDisk` (of `load(..., keep=False)`), which are read
        when they are indexed.
    labels : (N,) int32
        Class indices, counted from 0; -1 where the classifier's own clean prediction is to be the
        label (`labels="predicted"` of the data set `folder`).
    names : tuple of str
        What each image is called (a file name); all different.
    ids : (N,) int32
        Position of each image in the whole data set, whatever `offset` and `limit` were: with it
        the random key of an image is made.
    class_names : tuple of str
        The name of each class; its length is the number of classes.
    least_classes : bool
        Whether the labels alone say how many classes there are: a model may have more.
    """

    pixels: np.ndarray | ImagesOnDisk
    labels: np.ndarray
    names: tuple[str, ...]
    ids: np.ndarray
    class_names: tuple[str, ...]
    least_classes: bool = False

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.images, self.labels))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def images(self) -> np.ndarray:
        """All images in memory; those on the disk are read every time."""
        return np.asarray(self.pixels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.pixels.shape[1:]

    def batch(self, rows: np.ndarray | slice) -> np.ndarray:
        """Some images as float32 `(n, height, width, channels)`; only these are in memory."""
        return self.pixels[rows]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def select(self, rows: np.ndarray | slice) -> "Dataset":
        """The images that `rows` picks: a boolean mask, an array of positions or a slice."""
        positions, pixels = np.arange(len(self))[rows], self.pixels
        return replace(
            self,
            pixels=pixels.pick(positions) if isinstance(pixels, ImagesOnDisk) else pixels[positions],
            labels=self.labels[positions],
            names=tuple(self.names[i] for i in positions),
            ids=self.ids[positions],
        )

    def of_model(self, classes: int, name: str, model: str) -> "Dataset":
        """This data set, of as many classes as the model that is to see it.

        Parameters
        ----------
        classes : int
            The model's.
        name, model : str
            What the data set and the model are called.

        Raises
        ------
        InputError
            If it has other classes than the model.
        """
        check_classes(self.num_classes, self.least_classes, classes, name, model)
        if self.num_classes < classes:
            return replace(self, class_names=tuple(map(str, range(classes))), least_classes=False)
        return self

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over pixels, labels, names and ids.

        Equal digests mean equal data, so results stored for one digest may be used again. Images on the disk
        count by their own hashes, which are taken when they are read.
        """
        sha = hashlib.sha256(repr((self.pixels.shape, self.names)).encode())
        pixels = self.pixels.hashes() if isinstance(self.pixels, ImagesOnDisk) else self.pixels
        for array in (pixels, self.labels, self.ids):
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def check_classes(count: int, at_least: bool, classes: int, name: str, model: str) -> None:
    """Raise InputError if a data set of `count` classes, or more, is not for a model of `classes`."""
    if count > classes or (count < classes and not at_least):
        known = "at least " if at_least else ""
        raise InputError(f"data set {name!r} has {known}{count} classes, model {model!r} has {classes}")
