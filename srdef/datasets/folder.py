"""Your own images: a folder with a CSV of labels, one directory a class, or no labels at all."""

import os
import re
from pathlib import Path

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.files import (
    SUFFIXES,
    existing_folder,
    list_images,
    parse_label,
    read_csv,
    stamp,
    warn_of_left_out,
)
from srdef.datasets.imagenet_classes import imagenet_class_names, imagenet_wordnet_ids
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.validation import check_count


@REGISTRY.register("folder")
def folder(path: str | Path, labels: str | None = None, num_classes: int = 1000) -> Source:
    """Images in a folder (.jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff), sorted by name.

    A warning counts and names the images in other formats. An image of more than 64 million pixels is
    refused unless the environment variable SRDEF_MAX_PIXELS allows more.

    Parameters
    ----------
    path : path
        The folder.
    labels : str, optional
        Where the labels come from:

        - the name of a CSV file in the folder, with the columns `file` (relative to the folder)
          and `label` (class index from 0); other columns are left out, and so are images without a row,
          which a warning counts and names;
        - `"directories"`: one directory a class. If all their names are integers, these are the
          class indices; if all are WordNet ids ("n01440764"), the ImageNet classes; otherwise the
          directories are the classes 0, 1, 2 ... in sorted order, and there must be `num_classes`;
        - `"predicted"`: the label of every image is -1 here, and the evaluation replaces it by what
          the classifier predicts for the clean image, so that any photographs can be used.

        Default: "labels.csv" if there is such a file, else "directories".
    num_classes : int
        Number of classes of the classifier. With 1000 they are taken to be ImageNet's.

    Raises
    ------
    InputError
        If there are no images, a file is missing or stands twice, or a label is wrong.
    """
    root = existing_folder(path)
    check_count("num_classes", num_classes)
    if labels is None:
        labels = "labels.csv" if (root / "labels.csv").is_file() else "directories"
    class_names = imagenet_class_names()
    if num_classes != len(class_names):
        class_names = tuple(f"class {index}" for index in range(num_classes))
    if labels == "predicted":
        label_of = dict.fromkeys(list_images(root), -1)
    elif labels == "directories":
        label_of, class_names = _from_directories(root, class_names)
    elif labels.lower().endswith(".csv"):
        label_of = _from_csv(root, root / labels, num_classes)
    else:
        raise InputError(
            f"data set 'folder': unknown labels {labels!r}; choose from: directories, predicted, "
            "or the name of a .csv file"
        )
    if not label_of:
        raise InputError(f"folder {root} has no images ({', '.join(SUFFIXES)})")
    if labels.lower().endswith(".csv"):
        listed = {file.resolve() for file in label_of}
        others = [file for file in list_images(root) if file.resolve() not in listed]
        warn_of_left_out(root, others, f"no row in {labels}")
    paths = sorted(label_of, key=lambda file: file.relative_to(root).as_posix())

    def entry(position: int) -> Entry:
        file = paths[position]
        return Entry(label_of[file], file.relative_to(root).as_posix(), stamp(file))

    def read(position: int) -> Example:
        file = paths[position]
        return Example(read_image(file), label_of[file], file.relative_to(root).as_posix())

    return Source(len(paths), read, class_names, crop="center", entry=entry)


def _from_csv(root: Path, table: Path, num_classes: int) -> dict[Path, int]:
    if not table.is_file():
        raise InputError(f"{table}: no such file")
    label_of: dict[Path, int] = {}
    for line, name, label in read_csv(table, ("file", "label")):
        # "sub/../a.png" is a.png, and an absolute name counts if it leads into the folder.
        place = os.path.relpath(Path(name), root) if Path(name).is_absolute() else os.path.normpath(name)
        file = root / place
        where = f"{table}, line {line} ({name[:100]})"
        if place.split(os.sep)[0] == os.pardir or not _is_file(file):
            raise InputError(f"{where}: no such file in {root}")
        if file in label_of:
            raise InputError(f"{where}: this file stands there twice")
        label_of[file] = parse_label(label, num_classes, where)
    return label_of


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _from_directories(root: Path, class_names: tuple[str, ...]) -> tuple[dict[Path, int], tuple[str, ...]]:
    directories = sorted(
        (child for child in root.iterdir() if child.is_dir() and not child.name.startswith(".")),
        key=lambda child: child.name,
    )
    images = list_images(root)
    loose = [file for file in images if file.parent == root]
    if loose:
        raise InputError(
            f"image {loose[0]} lies in no class directory; "
            "give labels= the name of a CSV file, or 'predicted'"
        )
    names = [directory.name for directory in directories]
    if names and all(re.fullmatch(r"\d+", name) for name in names):
        indices = [parse_label(name, len(class_names), str(root / name)) for name in names]
        for index in indices:
            twins = [name for name, other in zip(names, indices, strict=True) if other == index]
            if len(twins) > 1:
                raise InputError(f"folder {root}: the directories {', '.join(twins)} are one class")
    elif names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        indices = _imagenet_indices(root, names, class_names)
    elif not images:
        indices = []
    elif len(names) != len(class_names):
        raise InputError(
            f"folder {root}: {len(names)} class directories for {len(class_names)} classes; name them by "
            f"class index or WordNet id, or set num_classes={len(names)} to number them in sorted order"
        )
    else:
        indices = list(range(len(names)))
        class_names = tuple(names)
    index_of = dict(zip(names, indices, strict=True)) if indices else {}
    return {file: index_of[file.relative_to(root).parts[0]] for file in images}, class_names


def _imagenet_indices(root: Path, names: list[str], class_names: tuple[str, ...]) -> list[int]:
    known = {wordnet_id: index for index, wordnet_id in enumerate(imagenet_wordnet_ids())}
    if len(class_names) != len(known):
        raise InputError(f"folder {root}: directories named by WordNet ids need num_classes={len(known)}")
    for name in names:
        if name not in known:
            raise InputError(f"folder {root / name}: not one of the 1000 ImageNet classes")
    return [known[name] for name in names]
