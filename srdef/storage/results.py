"""What runs leave in a workdir beside their store, and belongs to the `config.json` there."""

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
