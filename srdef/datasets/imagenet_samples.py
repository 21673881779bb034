"""20 labelled ImageNet photographs, from the data of the package foolbox (which is not imported)."""

import importlib.util
from pathlib import Path

from srdef.datasets.base import REGISTRY, Example, Source
from srdef.datasets.imagenet_classes import imagenet_class_names
from srdef.datasets.reading import read_image
from srdef.errors import InputError


@REGISTRY.register("imagenet_samples")
def imagenet_samples() -> Source:
    """The files `foolbox/data/imagenet_NN_LABEL.jpg`, in the order of NN.

    Raises
    ------
    InputError
        If the package foolbox is not installed, or has no such files.
    """
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise InputError("data set 'imagenet_samples' needs the package foolbox: pip install foolbox")
    folder = Path(spec.origin).parent / "data"
    paths = sorted(folder.glob("imagenet_*_*.jpg"))
    if not paths:
        raise InputError(
            f"data set 'imagenet_samples': no imagenet_*.jpg in {folder}: pip install foolbox==3.3.4"
        )

    def read(position: int) -> Example:
        path = paths[position]
        return Example(read_image(path), int(path.stem.split("_")[2]), path.stem)

    return Source(len(paths), read, imagenet_class_names(), crop="center")
