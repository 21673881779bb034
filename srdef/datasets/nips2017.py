"""The layout of the NIPS 2017 adversarial competition (DEV and TEST sets): images.csv and images/."""

from pathlib import Path

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.files import existing_folder, parse_label, read_csv, stamp
from srdef.datasets.imagenet_classes import imagenet_class_names
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.validation import check_count


@REGISTRY.register("nips2017")
def nips2017(path: str | Path, stride: int = 1) -> Source:
    """Images of the NIPS 2017 competition, 299x299 pixels, in the order of the rows of images.csv.

    Parameters
    ----------
    path : path
        Folder with `images.csv`, whose columns `ImageId` and `TrueLabel` are read (TrueLabel counts
        from 1: the class index is TrueLabel - 1), and `images/ImageId.png`.
    stride : int
        Take every `stride`-th image, from the first one on.

    Raises
    ------
    InputError
        If a row has no image, an image has no row, an ImageId stands twice or a label is not one of
        1 to 1000; or the stride is below 1.
    """
    check_count("data set 'nips2017': stride", stride)
    folder = existing_folder(path)
    table = folder / "images.csv"
    if not table.is_file():
        raise InputError(f"data set 'nips2017': {folder} has no images.csv")
    class_names = imagenet_class_names()
    labels: dict[str, int] = {}
    for line, image_id, label in read_csv(table, ("ImageId", "TrueLabel")):
        where = f"{table}, line {line} ({image_id})"
        if image_id in labels:
            raise InputError(f"{where}: this ImageId stands there twice")
        labels[image_id] = parse_label(label, len(class_names), where, first=1)
    present = {file.stem for file in existing_folder(folder / "images").glob("*.png")}
    for image_id in labels:
        if image_id not in present:
            raise InputError(f"{table}: image {image_id} has a row but no file images/{image_id}.png")
    for image_id in sorted(present):
        if image_id not in labels:
            raise InputError(f"{table}: no row for the file images/{image_id}.png")
    names = list(labels)[::stride]

    def file_of(name: str) -> Path:
        return folder / "images" / f"{name}.png"

    def entry(position: int) -> Entry:
        name = names[position]
        return Entry(labels[name], name, stamp(file_of(name)))

    def read(position: int) -> Example:
        name = names[position]
        return Example(read_image(file_of(name)), labels[name], name)

    return Source(len(names), read, class_names, crop="none", entry=entry)
