"""What the experiment scripts share: flags, progress, and one clear line for bad input."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from rich.console import Console

from srdef.errors import InputError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; `FILE.py:ARGUMENT` gives it one."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run computes and leaves.")

console = Console()


def fail(message: str) -> None:
    """Print one line and exit with code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _parse(arguments: list[str]) -> list[str]:
    """absl's flag parsing, with one line instead of a traceback for a bad flag or configuration."""
    for flag in ("config", "workdir"):
        flags.mark_flag_as_required(flag)
    try:
        rest = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError, OSError) as error:
        fail(str(error))
    if len(rest) > 1:
        fail(f"unexpected argument {rest[1]!r}; options are written --name=value")
    return rest


def run(main: Callable[[Any, Path], None]) -> None:
    """Parse `--config` and `--workdir`, and call `main(config, workdir)`.

    Bad input (InputError) ends in one line on standard error and exit code 2; Ctrl-C in 130.
    """

    def guarded(_: list[str]) -> None:
        try:
            main(CONFIG.value, Path(WORKDIR.value))
        except InputError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("stopped; the same command continues from here", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def plain(config: Any) -> dict[str, Any]:
    """A ConfigDict as plain data, its fields in the order in which they were written."""
    return json.loads(config.to_json())
