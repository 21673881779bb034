"""ImageNet's validation set as image-net.org gives it: a folder of JPEG files."""

from pathlib import Path

from srdef.datasets.base import REGISTRY, Entry, Example, Source
from srdef.datasets.files import SUFFIXES, existing_folder, list_images, parse_label, stamp
from srdef.datasets.imagenet_classes import imagenet_class_names, imagenet_wordnet_ids
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.paths import expanded


@REGISTRY.register("imagenet2012")
def imagenet2012(path: str | Path, labels: str | Path | None = None) -> Source:
    """The validation images of ILSVRC 2012 in a folder, in the order of their names, whatever the layout.

    Labels are the indices of the 1000 classes in the order of their WordNet ids, as classifiers have them.

    Parameters
    ----------
    path : path
        A folder of either layout:

        - the files of the archive `ILSVRC2012_img_val.tar` (`ILSVRC2012_val_00000001.JPEG`, ...), and a file
          `val.txt` with a line `ILSVRC2012_val_00000001.JPEG 65` for each of them, the label counted from 0;
        - one folder for each class, named by its WordNet id (`n01440764`).

        Some of the images will do.
    labels : path, optional
        The file of labels of the first layout, in the folder or elsewhere. Default: `val.txt` in the folder
        or beside it.

    Raises
    ------
    InputError
        If there are no images, two have one name, one has no label or stands in `val.txt` twice, or a label
        or folder is none of the 1000 classes. The ground truth of the development kit, which counts from 1 in
        another order, is refused for having no names.
    """
    root = existing_folder(path)
    files: dict[str, Path] = {}
    for file in list_images(root):
        if file.name in files:
            raise InputError(f"{file}: another image has this name: {files[file.name]}")
        files[file.name] = file
    if not files:
        raise InputError(f"folder {root} has no images ({', '.join(SUFFIXES)})")
    names = sorted(files)
    flat = all(file.parent == root for file in files.values())
    if flat:
        found = _read_labels(_file_of_labels(root, labels))
    elif labels is not None:
        raise InputError(f"folder {root} has folders of classes, so that labels={str(labels)!r} has no use")
    else:
        known = {wordnet_id: index for index, wordnet_id in enumerate(imagenet_wordnet_ids())}
        found = {name: _class_of(files[name], root, known) for name in names}
    for name in names:
        if name not in found:
            raise InputError(f"{files[name]}: no line in the file of labels")

    def entry(position: int) -> Entry:
        name = names[position]
        return Entry(found[name], name, stamp(files[name]))

    def read(position: int) -> Example:
        name = names[position]
        return Example(read_image(files[name]), found[name], name)

    return Source(len(names), read, imagenet_class_names(), crop="center", entry=entry)


def _file_of_labels(root: Path, labels: str | Path | None) -> Path:
    chosen = [root / "val.txt", root.parent / "val.txt"]
    if labels:
        chosen = [root / labels, expanded(labels)]
    for file in chosen:
        if file.is_file():
            return file
    places = " or ".join(map(str, dict.fromkeys(chosen)))
    raise InputError(
        f"data set 'imagenet2012': no file {places} with a line NAME LABEL for each image, and no folders "
        "named by WordNet ids"
    )


def _read_labels(file: Path) -> dict[str, int]:
    """The label of each name."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        where = f"{file}, line {number}"
        if len(words) != 2:
            raise InputError(f"{where}: must be a name and a label, not {line[:60]!r}")
        name = Path(words[0]).name
        if name in found:
            raise InputError(f"{where}: {name} stands there twice")
        found[name] = parse_label(words[1], len(imagenet_class_names()), where)
    return found


def _class_of(file: Path, root: Path, known: dict[str, int]) -> int:
    folder = file.relative_to(root).parts[0]
    if folder not in known:
        raise InputError(
            f"{file}: lies in no folder that is named by one of ImageNet's 1000 WordNet ids, as n01440764"
        )
    return known[folder]
