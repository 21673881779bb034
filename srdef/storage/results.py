"""What runs leave in a workdir beside their store, and belongs to the `config.json` there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srdef.errors import InputError
from srdef.storage.files import canonical_json, write_atomically

# Of all commands, as a workdir may have been another's before. Stores and checkpoints know what they are of.
NAMES = (
    *("table.md", "table.json", "attacks.json", "records.parquet", "gallery.png", "defense_gallery.png"),
    *("epsilon_curves.md", "epsilon_curves.csv", "epsilon_curves.png", "epsilon_curves.pdf"),
    *("adaptive.md", "adaptive.json", "adaptive.csv", "checks.md", "landscape_*.png"),
    *("transfer.md", "transfer.json", "transfer.png", "transfer.pdf"),
    *("manifold.md", "manifold.json", "study.md", "study.json", "study.png", "study.pdf"),
    *("curves.png", "curves.pdf", "trace.png", "trace.pdf", "report.html"),
)


def is_of(workdir: Path, config: dict[str, Any]) -> bool:
    """Whether the `config.json` of a workdir says this configuration."""
    try:
        return (workdir / "config.json").read_text(encoding="utf-8") == _text(config)
    except (OSError, ValueError):
        return False


def _text(config: dict[str, Any]) -> str:
    return canonical_json(config) + "\n"


def remove(workdir: Path) -> None:
    """Delete the results in a workdir; what was computed on the way stays.

    Raises
    ------
    InputError
        Names the file that cannot be deleted.
    """
    for name in NAMES:
        for path in workdir.glob(name):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"cannot delete {path} ({error.strerror})") from None


def begin(workdir: Path, config: dict[str, Any]) -> None:
    """Write `config.json` before the results are there; those of another configuration are deleted first."""
    if not is_of(workdir, config):
        remove(workdir)
        write_atomically(workdir / "config.json", _text(config))


def holds(path: Path, content: bytes) -> bool:
    """Whether a file is there and has this content."""
    return path.is_file() and path.read_bytes() == content


def write(workdir: Path, contents: Mapping[str, str | bytes]) -> None:
    """Write results; those of other images or weights, which the same configuration had, are deleted first.

    Parameters
    ----------
    workdir : Path
    contents : dict
        By the name of the file. Where one of these files says something else, nothing else is kept either:
        report, curves and checks belong to it.
    """
    new = {name: text.encode() if isinstance(text, str) else text for name, text in contents.items()}
    if any((workdir / name).is_file() and not holds(workdir / name, new[name]) for name in new):
        remove(workdir)
    for name, content in new.items():
        write_atomically(workdir / name, content)
