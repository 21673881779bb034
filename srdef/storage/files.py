"""Files that are whole or not there: the one atomic writer, and JSON that is the same for equal values."""

import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srdef.errors import InputError
from srdef.paths import expanded

if TYPE_CHECKING:  # a name alone, and a second of every script's start
    from matplotlib.figure import Figure

# The names of files that are not whole yet: those of `replacing`, and those of TensorStore. Those of others
# that are like them (`.movie.part`) are not srdef's to delete.
_UNFINISHED = re.compile(r"\..+\.(\d+|[0-9a-f]{8})\.part|(\.z\w+|\d+(\.\d+)*)\.__lock")
# In the folder of a run: see `srdef.storage.store.exclusive`.
LOCK = "lock"


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no NaN."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False)


def for_json(value: Any) -> Any:
    """Plain data that JSON can hold: None for a nan, a mean of nothing; "inf" or "-inf" for an infinity."""
    if isinstance(value, dict):
        return {name: for_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [for_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(float(value))
    return value


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside `path`, whose file takes the place of `path` when the block ends without an error.

    Whoever reads `path` finds the old file or the whole new one. What a killed process leaves beside it is
    removed by `remove_unfinished`.

    Yields
    ------
    Path
        Where the block must write the file, and nothing else may go wrong.

    Raises
    ------
    InputError
        Names the file, if it cannot be written: a full disk, a missing folder, a folder in its place.
    """
    path = expanded(path)
    if not path.name:
        raise InputError(f"cannot write {path} (not the name of a file)")
    unfinished = _beside(path)
    try:
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error})") from None
    finally:
        with suppress(OSError):  # its folder may be missing, or no folder
            unfinished.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    # Another process, perhaps on another machine, may write the same file at the same time.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def check_writable(path: str | Path) -> None:
    """InputError at once for a file that could not be written when long work is done; it leaves nothing.

    Folders that are still to be made do not count: the first one that is there must take a file.
    """
    path = expanded(path)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder; say which file to write")
        there = next(parent for parent in path.absolute().parents if parent.exists())
        trial = _beside(there / path.name)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror or error})") from None


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes have left below `folder`: half files of `replacing` and of TensorStore.

    Only for whoever has the folder to themselves (`srdef.storage.store.exclusive`). Folders below that are
    another run's stay as they are: it may be writing there.
    """
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not Path(parent, name, LOCK).is_file()]
        for name in names:
            if _UNFINISHED.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one; InputError if that fails."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def save_figure(
    figure: "Figure", path: str | Path, *, dpi: float, metadata: Mapping[str, str | None] | None = None
) -> None:
    """Write a figure whole or not at all; InputError if the path does not end in .png, .pdf or .svg."""
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"a figure's file must end in .png, .pdf or .svg, not {path.name!r}")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix.removeprefix("."), dpi=dpi, metadata=metadata)
