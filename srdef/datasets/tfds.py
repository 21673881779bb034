"""Prepared TensorFlow Datasets, read without TensorFlow (`tfds.data_source`, array_record files)."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.imagenet_classes import imagenet_class_names, imagenet_wordnet_ids
from srdef.datasets.reading import read_array
from srdef.errors import InputError
from srdef.paths import expanded


def open_builder(dataset: str, where: str, data_dir: str | Path | None = None) -> Any:
    """What TensorFlow Datasets knows about a data set, prepared or not.

    Parameters
    ----------
    dataset : str
        Name, with configuration and version if wanted.
    where : str
        What to call it in messages.
    data_dir : path, optional
        Where it was prepared; default: that of TensorFlow Datasets.

    Raises
    ------
    InputError
        If there is no data set, configuration or version of this name.
    """
    # Imported here: the package takes a while and is not needed for the other data sets.
    import tensorflow_datasets

    data_dir = data_dir and expanded(data_dir)
    try:
        return tensorflow_datasets.builder(dataset, data_dir=data_dir)
    except tensorflow_datasets.core.DatasetNotFoundError:
        raise InputError(f"{where}: TensorFlow Datasets has no data set of this name") from None
    except ImportError as error:  # of another collection, as "huggingface:mnist"
        raise InputError(f"{where}: TensorFlow Datasets needs another package for it ({error})") from None
    except (ValueError, AssertionError) as error:  # of a configuration or version, or no name at all
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where}: not a name of TensorFlow Datasets ({reason})") from None


@REGISTRY.register("tfds")
def tfds(
    dataset: str = "imagenet2012", split: str = "validation", data_dir: str | Path | None = None
) -> Source:
    """A data set of TensorFlow Datasets that has an `image` and a `label`.

    If its classes are called by WordNet ids of ImageNet (`imagenet2012`, `imagenet_v2`, `imagenette`,
    `imagenet_a`, ...), labels are the indices of ImageNet's 1000 classes, of which it may have only some.

    Reading needs no TensorFlow, but preparing does, once, and in the format that allows random
    access::

        pip install tensorflow-cpu
        python -c "import tensorflow_datasets as tfds; tfds.builder('imagenet2012', file_format='array_record').download_and_prepare()"

    Of a data set that is too large for the memory all images are read once at every start, as there is no
    label without its image; `imagenet2012` in a folder (`srdef.datasets.imagenet2012`) needs that only once.

    `imagenet2012` wants its archive `ILSVRC2012_img_val.tar` (and that of the training images) in
    ~/tensorflow_datasets/downloads/manual; `imagenet_v2` and `imagenette` are downloaded.

    Parameters
    ----------
    dataset : str
        Name, with configuration and version if wanted ("imagenet_v2/matched-frequency").
    split : str
        One of its splits ("test" for `imagenet_v2`, which has no other).
    data_dir : path, optional
        Where it was prepared; default: that of TensorFlow Datasets (~/tensorflow_datasets).

    Raises
    ------
    InputError
        If there is no such data set or split, it is not prepared as array_record, or it is not one
        of images in 8 or 16 bits with one label each; when an example is read whose label is not one of the
        classes (-1 where a split has no labels).
    """  # noqa: E501
    where = f"data set 'tfds', {dataset}"
    builder = open_builder(dataset, where, data_dir)
    splits = list(builder.info.splits)
    if splits and split not in splits:
        raise InputError(f"{where}: unknown split {split!r}; choose from: {', '.join(splits)}")
    try:
        records = builder.as_data_source(split)
    except (NotImplementedError, KeyError, ValueError, OSError):
        raise InputError(
            f"{where}: not prepared as array_record in {builder.data_path.parent}; prepare it (with "
            f"tensorflow-cpu installed) by tfds.builder({dataset!r}, data_dir=..., "
            "file_format='array_record').download_and_prepare()"
        ) from None
    features = builder.info.features
    if not {"image", "label"} <= set(features) or not hasattr(features["label"], "names"):
        raise InputError(f"{where}: needs the features image and label; it has: {', '.join(features)}")
    class_names = tuple(features["label"].names)
    classes = list(range(len(class_names)))
    imagenet = {wordnet_id: index for index, wordnet_id in enumerate(imagenet_wordnet_ids())}
    if set(class_names) <= set(imagenet):  # ImageNet's classes or some of them, such as imagenette's ten
        classes = [imagenet[wordnet_id] for wordnet_id in class_names]
        class_names = imagenet_class_names()

    def read_record(position: int) -> tuple[Any, int, str]:
        """Image, label and name."""
        record, name = records[position], f"{split}/{position}"
        label = int(record["label"])
        if not 0 <= label < len(classes):
            unlabelled = " (unlabelled)" if label == -1 else ""
            raise InputError(
                f"{where}: example {name} has the label {label}{unlabelled}, which is outside "
                f"[0, {len(classes) - 1}]; choose a split with labels"
            )
        return record["image"], classes[label], name

    def entry(position: int) -> Entry:
        image, label, name = read_record(position)  # TensorFlow Datasets gives no label without its image
        return Entry(label, name, hashlib.sha256(np.ascontiguousarray(image).data).hexdigest())

    def read(position: int) -> Example:
        image, label, name = read_record(position)
        return Example(read_array(image, f"{where}: example {name}"), label, name)

    return Source(len(records), read, class_names, crop="center", entry=entry)
