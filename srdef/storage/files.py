"""Files that are whole or not there: the one atomic writer, and JSON that is the same for equal values."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srdef.errors import InputError

if TYPE_CHECKING:  # a name alone, and a second of every script's start
    from matplotlib.figure import Figure


def canonical_json(value: Any) -> str:
    """JSON that is the same for equal values: sorted keys, no NaN."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False)


def without_nan(value: Any) -> Any:
    """Plain data with None in the place of every nan: a mean of nothing, which JSON cannot hold."""
    if isinstance(value, dict):
        return {name: without_nan(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def save_figure(
    figure: "Figure", path: str | Path, *, dpi: float, metadata: Mapping[str, str | None] | None = None
) -> None:
    """Write a figure whole or not at all; InputError if the path does not end in .png, .pdf or .svg."""
    path = Path(path)
    if path.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"a figure's file must end in .png, .pdf or .svg, not {path.name!r}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(unfinished, format=path.suffix.removeprefix("."), dpi=dpi, metadata=metadata)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
