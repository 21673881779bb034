"""The command `srdef`: `srdef evaluate quickstart` does what `python -m experiments.evaluate` does.

Nothing heavy is imported before Ctrl-C is heard and the cache of compiled programs is set up.
"""

import difflib
import io
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from srdef import __version__, cache, huge_pages, interrupts

COMMANDS = {
    "evaluate": "attack a classifier, defend it, and print the paper's table",
    "attack": "accuracy of a model, your own or a registered one, under attacks at several radii",
    "adaptive": "attack defenses with attackers who know more and more of them",
    "transfer": "attack each of several classifiers and ask all of them",
    "manifold": "train a detector of adversarial images and ask it about defended ones",
    "report": "write one HTML page about a finished run",
    "figures": "draw one of the paper's figures",
    "defense-gallery": "one adversarial image through every defense, as a picture",
    "train-sr": "train a super-resolution network",
    "train-all": "train all super-resolution networks, one after the other",
    "evaluate-sr": "PSNR and SSIM of super-resolution networks",
    "select-images": "choose images that a classifier classifies correctly",
    "convert-weights": "convert a weights file, or put one into the cache by hand",
    "network-table": "print the tables of networks and their weights",
    "benchmark": "time srdef beside other libraries",
}

# What requirements-experiments.txt installs, as it is imported.
EXTRAS = (
    "ml_collections",
    "tensorstore",
    "pyarrow",
    "matplotlib",
    "markdown_it",
    "orbax",
    "grain",
    "tensorflow_datasets",
)

USAGE = """usage: srdef COMMAND [CONFIGURATION] [--workdir=FOLDER] [--config.FIELD=VALUE ...]

{commands}

`srdef COMMAND --help` says more. `srdef evaluate quickstart` is a good start, and
`srdef attack --model=FILE.py:FUNCTION --data=NAME` for a model of your own."""


def usage() -> str:
    """What `srdef --help` prints."""
    width = max(map(len, COMMANDS))
    return USAGE.format(commands="\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()))


def entry(*words: str) -> NoReturn:
    """Run the command of `words` and this process's arguments, and end the process.

    Programs that threads still compile ahead are not waited for, as Python would, nor processes that have
    ended, as `jax.distributed` would.
    """
    arguments = [*words, *sys.argv[1:]]
    if isinstance(sys.stdout, io.TextIOWrapper):  # an ε must not end a run in a terminal of another encoding
        sys.stdout.reconfigure(errors="replace")
    if arguments and arguments[0].replace("_", "-") in COMMANDS:
        huge_pages.restart()
    try:
        code = main(arguments)
    except Exception:
        if not _joined():
            raise
        traceback.print_exc()
        code = 1
    compiling = any(thread.name.startswith(cache.COMPILERS) for thread in threading.enumerate())
    if compiling or _joined():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _joined() -> bool:
    """Whether `jax.distributed` has made one of several processes."""
    return "jax" in sys.modules and bool(sys.modules["jax"].distributed.is_initialized())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0, 2 for bad input, 130 after Ctrl-C.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the command line, the command's name first; default: this process's.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if name in ("", "-h", "--help", "help"):
        print(usage())
        return 0 if name else 2
    if name == "--version":
        print(f"srdef {__version__}")
        return 0
    command = name.replace("_", "-")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        print(
            f"error: unknown command {name[:60]!r}; {hint}choose from: {', '.join(COMMANDS)}", file=sys.stderr
        )
        return 2
    interrupts.install()
    if "--nocache" not in rest:
        cache.keep_programs()
    # As `python -m` does, so that configurations find the modules beside them; at the end, so that these
    # hide nothing that is installed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        cli = import_module("srdef.commands.cli")
        module = import_module(f"srdef.commands.{command.replace('-', '_')}")
        code: int = cli.run(command, module, rest)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS or not _imported_by_srdef(error):
            raise
        print(
            f"error: srdef {command} needs {package}; install the commands' packages: "
            'pip install -e ".[experiments]", or ".[all]" with the sample images and classifiers',
            file=sys.stderr,
        )
        return 2
    return code


def _imported_by_srdef(error: ImportError) -> bool:
    """Whether the failed import stands in a module of srdef, and not in one of the user's or another's."""
    importers = [
        name
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if not (name := frame.f_globals.get("__name__", "")).startswith("importlib")
    ]
    return bool(importers) and importers[-1].split(".")[0] == "srdef"
