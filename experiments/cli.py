"""What the experiment scripts share: flags, progress, and one clear line for bad input."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from srdef.errors import InputError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; `FILE.py:ARGUMENT` gives it one."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything the run computes and leaves.")

console = Console()


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def parse(arguments: list[str]) -> list[str]:
    """absl's flag parsing, with one line instead of a traceback for a bad flag or configuration."""
    try:
        return flags.FLAGS(arguments)
    except (AttributeError, KeyError) as error:  # what an unknown field raises, with only its name
        name = str(error).strip("\"'")
        fail(f"no such field of the configuration: {name}; the file of --config has them all")
    except (flags.Error, ValueError, TypeError, OSError) as error:
        fail(_reason(str(error)))


def _reason(message: str) -> str:
    """What was wrong: of a failure inside a configuration, which arrives as a traceback, the last line."""
    if "Traceback" not in message:
        return message
    return message.strip().splitlines()[-1].split(": ", 1)[-1]


def guarded(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """`main` with bad input (InputError) as one line and exit code 2, and Ctrl-C as 130."""

    def wrapped(arguments: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # JAX tells at INFO which back ends it looked for
        try:
            main(arguments)
        except InputError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("stopped; the same command continues from here", file=sys.stderr)
            sys.exit(130)

    return wrapped


def exact_arithmetic() -> None:
    """Compute matrix products and convolutions in float32 on every device.

    GPUs and TPUs otherwise round their factors (an NVIDIA GPU to TF32, 10 bits of mantissa), and reported
    numbers would depend on the machine. What chooses its own precision, as the training, keeps it.
    """
    jax.config.update("jax_default_matmul_precision", "highest")


def run(main: Callable[[Any, Path], None]) -> None:
    """Parse `--config` and `--workdir`, which are required, and call `main(config, workdir)` in float32."""
    for flag in ("config", "workdir"):
        flags.mark_flag_as_required(flag)

    def with_flags(arguments: list[str]) -> None:
        if len(arguments) > 1:
            raise InputError(f"unexpected argument {arguments[1]!r}; options are written --name=value")
        if not isinstance(CONFIG.value, ConfigDict):
            try:
                CONFIG.value.to_dict()  # a stand-in that raises what went wrong
            except OSError as error:
                raise InputError(str(error)) from None
        exact_arithmetic()
        main(CONFIG.value, Path(str(WORKDIR.value)))

    app.run(guarded(with_flags), flags_parser=parse)


def plain(config: Any) -> dict[str, Any]:
    """A ConfigDict as plain data, its fields in the order in which they were written."""
    return json.loads(config.to_json())
