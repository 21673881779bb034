"""Folders and CSV files, checked, for the data sets that lie in them."""

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from srdef.errors import InputError, warn
from srdef.paths import expanded

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# Of images that are not read, so that they can be named.
OTHER_SUFFIXES = (
    ".avif", ".dng", ".eps", ".exr", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm",
    ".pgm", ".pnm", ".ppm", ".psd", ".raw", ".svg", ".tga",
)  # fmt: skip


def existing_folder(path: str | Path) -> Path:
    """`path` as a Path, `~` expanded; InputError unless it is a folder that can be read."""
    if str(path) == "":  # which Path takes for the current folder
        raise InputError("an empty path names no folder")
    folder = expanded(path)
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        place = "" if folder.is_absolute() else f" in {Path.cwd()}"
        raise InputError(f"folder {folder} does not exist{place}") from None
    except NotADirectoryError:
        raise InputError(f"{folder} is not a folder") from None
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read: {error.strerror}") from None
    return folder


def stamp(file: Path) -> str:
    """Size and time of modification of a file; InputError if it is not there."""
    try:
        found = file.stat()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    return f"{found.st_size} bytes, {found.st_mtime_ns} ns"


def list_images(folder: Path) -> list[Path]:
    """All image files below `folder` (known by `SUFFIXES`), sorted; hidden ones are left out.

    A warning counts and names the images in other formats.
    """
    found: list[Path] = []
    others: list[Path] = []
    for path in _below(folder, {folder.resolve()}):
        kind = path.suffix.lower()
        if kind in (*SUFFIXES, *OTHER_SUFFIXES) and path.is_file():
            (found if kind in SUFFIXES else others).append(path)
    for path in found:
        try:
            path.relative_to(folder).as_posix().encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!a}: a name that is not UTF-8; give the file another") from None
    warn_of_left_out(folder, others, f"other formats than {', '.join(SUFFIXES)} are not read")
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _below(folder: Path, above: set[Path]) -> Iterator[Path]:
    """All that is not hidden below a folder, also behind links; `above` are the folders that lead to it."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read: {error.strerror}") from None
    for path in entries:
        if path.name.startswith("."):
            continue
        yield path
        if path.is_dir() and (real := path.resolve()) not in above:  # else a link that leads back
            yield from _below(path, above | {real})


def warn_of_left_out(folder: Path, images: Iterable[Path], reason: str) -> None:
    """Say in one line how many images below `folder` are left out, which ones, and why; nothing for none."""
    names = sorted(path.relative_to(folder).as_posix() for path in images)
    if not names:
        return
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    count = f"{len(names)} image{'s' if len(names) > 1 else ''}"
    warn(f"folder {folder}: {count} left out ({shown}): {reason}")


def read_csv(path: Path, columns: tuple[str, str]) -> list[tuple[int, str, str]]:
    """Two columns of a CSV file with a header: `(line number, first, second)` of each row.

    Raises
    ------
    InputError
        If the file is missing, not UTF-8 text, or lacks a column, a value or all rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for column in columns:
        if column not in header:
            raise InputError(f"{path}: no column {column!r}; its columns are: {', '.join(header) or 'none'}")
    if not rows:
        raise InputError(f"{path}: no rows below the header")
    result = []
    for line, row in rows:
        first, second = (row[column] for column in columns)
        if not first or not second:
            raise InputError(f"{path}, line {line}: {columns[0] if not first else columns[1]} is missing")
        result.append((line, first.strip(), second.strip()))
    return result


def parse_label(text: str, num_classes: int, where: str, first: int = 0) -> int:
    """A class index counted from 0, from text that counts from `first`; InputError naming `where`."""
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InputError(f"{where}: label {text!r} is not an integer")
    label = int(text)
    if not first <= label < first + num_classes:
        raise InputError(f"{where}: label {label} is outside [{first}, {first + num_classes - 1}]")
    return label - first
