"""Labelled images by name: `images, labels = datasets.load("imagenet_samples", size=160)`.

`datasets.list_names()` gives the names: `imagenet_samples` (20 photographs that a package brings along),
`folder` (your own images), `nips2017` (the competition's layout) and `tfds` (TensorFlow Datasets).
`srdef.datasets.selection` chooses the images that a classifier gets right and keeps their list.
"""

from srdef.datasets import folder, imagenet_samples, nips2017, selection, tfds  # they register themselves
from srdef.datasets.base import REGISTRY, Dataset, list_names, load
from srdef.datasets.imagenet_classes import imagenet_class_names, imagenet_wordnet_ids

__all__ = [
    "REGISTRY",
    "Dataset",
    "folder",
    "imagenet_class_names",
    "imagenet_samples",
    "imagenet_wordnet_ids",
    "list_names",
    "load",
    "nips2017",
    "selection",
    "tfds",
]
