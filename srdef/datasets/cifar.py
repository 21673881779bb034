"""CIFAR-10 and CIFAR-100 from their published files: the binary version, or the one for Python."""

import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from srdef.datasets.base import REGISTRY, Example, Source
from srdef.datasets.files import existing_folder
from srdef.datasets.published import CIFAR
from srdef.errors import InputError
from srdef.paths import expanded
from srdef.validation import check_choice
from srdef.weights import download, numpy_pickles

Split = Literal["train", "test"]


class Version(NamedTuple):
    """The files of a split as one of the published archives has them."""

    folder: str
    archive: str
    files: tuple[str, ...]
    # The names of the labels in a pickle; the binary version has bytes in their place.
    labels: tuple[str, ...] = ()


PIXELS = 3 * 32 * 32
# Above that of the largest published member, so that a small archive cannot fill the memory.
LARGEST = 1 << 28

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_FINE = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_COARSE = """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
vehicles_1 vehicles_2"""
CIFAR100_FINE, CIFAR100_COARSE = tuple(_FINE.split()), tuple(_COARSE.split())


@REGISTRY.register("cifar10")
def cifar10(split: Split = "test", path: str | Path | None = None) -> Source:
    """CIFAR-10: images of 32x32 pixels in 10 classes, 10,000 to test and 50,000 to train.

    Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, the binary version. Images keep their size
    if none is given.

    Parameters
    ----------
    split : "test" or "train"
    path : path, optional
        The archive `cifar-10-binary.tar.gz`, or a folder with it, or with its files `test_batch.bin` and
        `data_batch_1.bin` to `data_batch_5.bin` (or the folder `cifar-10-batches-bin` of them). The version
        for Python, which torchvision downloads, is read as well: `cifar-10-python.tar.gz`, or the folder
        `cifar-10-batches-py`. Default: the binary archive is downloaded once (170 MB) into srdef's cache
        folder, and verified.

    Raises
    ------
    InputError
        If the download fails, a file is missing or damaged, or a label is not one of the classes.
    """
    check_choice("split", split, ("test", "train"))
    files = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    versions = (
        Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", tuple(f"{file}.bin" for file in files)),
        Version("cifar-10-batches-py", "cifar-10-python.tar.gz", tuple(files), ("labels",)),
    )
    return _source("cifar10", split, path, versions, 1, 0, CIFAR10)


@REGISTRY.register("cifar100")
def cifar100(
    split: Split = "test", path: str | Path | None = None, labels: Literal["fine", "coarse"] = "fine"
) -> Source:
    """CIFAR-100: images of 32x32 pixels in 100 classes, 10,000 to test and 50,000 to train.

    Parameters
    ----------
    split : "test" or "train"
    path : path, optional
        The archive `cifar-100-binary.tar.gz`, or a folder with it, or with its files `test.bin` and
        `train.bin` (or the folder `cifar-100-binary` of them); or `cifar-100-python.tar.gz`, or the folder
        `cifar-100-python`. Default: as for `cifar10`.
    labels : "fine" or "coarse"
        The 100 classes, or the 20 that they are grouped in.

    Raises
    ------
    InputError
        As `cifar10`.
    """
    check_choice("split", split, ("test", "train"))
    check_choice("labels", labels, ("fine", "coarse"))
    names, column = (CIFAR100_FINE, 1) if labels == "fine" else (CIFAR100_COARSE, 0)
    versions = (
        Version("cifar-100-binary", "cifar-100-binary.tar.gz", (f"{split}.bin",)),
        Version("cifar-100-python", "cifar-100-python.tar.gz", (split,), ("coarse_labels", "fine_labels")),
    )
    return _source("cifar100", split, path, versions, 2, column, names)


def _source(
    name: str,
    split: Split,
    path: str | Path | None,
    versions: Sequence[Version],
    labels: int,
    column: int,
    class_names: tuple[str, ...],
) -> Source:
    """The records of the files one after the other: so many labels, then 32x32 pixels of each channel."""
    length = labels + PIXELS
    parts = []
    version, contents = _read_all(name, path, versions)
    for where, data in contents:
        records = _unpickled(where, data, version.labels) if version.labels else np.frombuffer(data, np.uint8)
        if not records.size or records.size % length:
            raise InputError(
                f"{where}: {records.size} bytes are no whole number of records of {length} bytes; "
                "it is truncated, or another file"
            )
        records = records.reshape(-1, length)
        bad = np.flatnonzero(records[:, column] >= len(class_names))
        if len(bad):
            raise InputError(
                f"{where}: record {bad[0]} has the label {records[bad[0], column]}, which is outside "
                f"[0, {len(class_names) - 1}]; it is damaged, or another file"
            )
        parts.append(records)
    everything = np.concatenate(parts) if len(parts) > 1 else parts[0]

    def read(position: int) -> Example:
        record = everything[position]
        pixels = record[labels:].reshape(3, 32, 32).transpose(1, 2, 0)
        return Example(pixels, int(record[column]), f"{split}/{position}")

    return Source(len(everything), read, class_names, crop="none")


def _unpickled(where: str, data: bytes, names: Sequence[str]) -> np.ndarray:
    """The pickled dictionary of a file as records of the binary version."""
    try:
        content = numpy_pickles.read_plain(data)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except Exception as error:  # of garbage, Python's reader of instructions raises nearly everything
        raise InputError(f"{where}: damaged ({error!s:.200})") from None
    try:
        images = content["data"].values
        columns = [np.asarray(content[name]) for name in names]
    except (TypeError, KeyError, AttributeError, ValueError):
        columns = []
    if not columns or images.dtype != np.uint8 or images.shape[1:] != (PIXELS,):
        raise InputError(f"{where}: is no dictionary of {', '.join(names)} and data of (N, {PIXELS}) bytes")
    for name, column in zip(names, columns, strict=True):
        if (
            column.dtype.kind != "i"
            or column.shape != (len(images),)
            or not ((column >= 0) & (column < 256)).all()
        ):
            raise InputError(f"{where}: {name} are not {len(images)} classes")
    return np.column_stack([*(column.astype(np.uint8) for column in columns), images])


def _read_all(
    name: str, path: str | Path | None, versions: Sequence[Version]
) -> tuple[Version, list[tuple[str, bytes]]]:
    """Which version is there, and what is in its files, each with the words for it in messages."""
    if path is None:
        return versions[0], _read_archive(download.fetch(CIFAR[name]), versions[0].files)
    given = expanded(path)
    if given.is_file():
        version = next((version for version in versions if given.name == version.archive), versions[0])
        return version, _read_archive(given, version.files)
    root = existing_folder(path)
    for version in versions:
        for place in (root, root / version.folder):
            if any((place / file).is_file() for file in version.files):
                return version, [_read_file(place / file) for file in version.files]
        if (root / version.archive).is_file():
            return version, _read_archive(root / version.archive, version.files)
    first, *_ = versions
    others = ", nor ".join(place for version in versions for place in (version.folder, version.archive))
    raise InputError(f"data set {name!r}: {root} has neither {first.files[0]}, nor {others}")


def _read_file(file: Path) -> tuple[str, bytes]:
    try:
        return str(file), file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None


def _read_archive(archive: Path, files: Sequence[str]) -> list[tuple[str, bytes]]:
    """Members of a .tar.gz, by the last part of their names."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                file = member.name.rsplit("/", 1)[-1]
                if file in files and member.isfile():
                    if member.size > LARGEST:
                        raise InputError(f"{archive}: its {file} has {member.size} bytes, which are too many")
                    content = tar.extractfile(member)
                    assert content is not None
                    found[file] = content.read()
                    if len(found) == len(files):
                        break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{archive}: cannot be read, it may be damaged ({reason})") from None
    for file in files:
        if file not in found:
            raise InputError(f"{archive}: has no {file}")
    return [(f"{archive}, {file}", found[file]) for file in files]
