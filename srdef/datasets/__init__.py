"""Labelled images by name: `images, labels = datasets.load("imagenet_samples", size=160)`.

`datasets.list_names()` gives the names: `imagenet_samples` (20 images that a package brings along), `folder`,
`crops` and `arrays` (your own images), `cifar10`, `cifar100` and `mnist` (their published files),
`imagenet2012` (its validation images), `nips2017` (the competition's layout), `tfds` (TensorFlow Datasets). A
function of your own is called `MODULE:FUNCTION`. `srdef.datasets.selection` chooses the images that a
classifier classifies correctly and keeps their list.
"""

from srdef.datasets import (  # they register themselves
    arrays,
    cifar,
    crops,
    folder,
    imagenet2012,
    imagenet_samples,
    mnist,
    nips2017,
    selection,
    tfds,
)
from srdef.datasets.base import REGISTRY, Dataset, list_names, load
from srdef.datasets.imagenet_classes import imagenet_class_names, imagenet_wordnet_ids
from srdef.datasets.on_disk import ImagesOnDisk

__all__ = [
    "REGISTRY",
    "Dataset",
    "ImagesOnDisk",
    "arrays",
    "cifar",
    "crops",
    "folder",
    "imagenet2012",
    "imagenet_class_names",
    "imagenet_samples",
    "imagenet_wordnet_ids",
    "list_names",
    "load",
    "mnist",
    "nips2017",
    "selection",
    "tfds",
]
