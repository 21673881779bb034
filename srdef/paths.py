"""Paths as a user writes them, on a command line, in a configuration or in Python."""

from pathlib import Path

from srdef.errors import InputError


def expanded(path: str | Path) -> Path:
    """`path` with `~` and `~NAME` at its start as the home folder, which a shell leaves after a `=`.

    Raises
    ------
    InputError
        If there is no such home folder, or `path` is none.
    """
    try:
        return Path(path).expanduser()
    except TypeError:
        raise InputError(f"a path must be a string or a Path, not {type(path).__name__}") from None
    except RuntimeError:
        start = Path(path).parts[0]
        raise InputError(f"{path}: there is no home folder {start}") from None
