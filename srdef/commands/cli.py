"""What the commands share: their options, `--help`, and one clear line for bad input."""

import argparse
import difflib
import json
import os
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax
from rich.console import Console

from srdef import cache, interrupts
from srdef.batching import is_out_of_memory
from srdef.commands import configuration
from srdef.errors import InputError
from srdef.evaluation import plain_data, schema
from srdef.paths import expanded

# Labels and paths are printed as they are: "[/2]" is no markup.
console = Console(markup=False)
_NO_MEMORY = "not enough memory ({}); a smaller config.batch_size or dataset.limit needs less"
plain = configuration.plain


@dataclass(frozen=True)
class Command:
    """What a module of `srdef.commands` calls COMMAND.

    Attributes
    ----------
    run : callable
        Does the work, with the options as a namespace.
    schema : str
        Which of `schema.SCHEMAS` its configuration has; "": it takes none.
    workdir : bool
        Whether it leaves files in a `--workdir`.
    options : callable
        Adds further options.
    exact : bool
        Whether it computes in float32 on every device.
    overwrites : bool
        Whether `--overwrite` lets it replace the results of another configuration.
    """

    run: Callable[[argparse.Namespace], None]
    schema: str = ""
    workdir: bool = False
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    exact: bool = True
    overwrites: bool = True


class Parser(argparse.ArgumentParser):
    """argparse's, with InputError for what it does not understand."""

    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def run(name: str, module: ModuleType, arguments: Sequence[str]) -> int:
    """Run the command in `module`; returns 0, 2 for bad input (one line), or 130 after Ctrl-C."""
    command: Command = module.COMMAND
    warnings.formatwarning = _warning_line
    try:
        cache.write_programs_whole()
        options = parse(name, module.__doc__ or "", command, arguments)
        if command.exact:
            exact_arithmetic()
        with interrupts.deferred():
            command.run(options)
    except InputError as error:
        return fail(str(error))
    except MemoryError as error:
        return fail(_NO_MEMORY.format(error))
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return fail(_NO_MEMORY.format(" ".join(str(error).split())[:200]))
    except BrokenPipeError:  # as in `srdef report ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        again = "continues from here" if command.workdir else "starts again from the beginning"
        print(f"stopped; the same command {again}", file=sys.stderr)
        return interrupts.EXIT_CODE
    return 0


def _warning_line(message: Warning | str, *_: Any, **__: Any) -> str:
    """A warning without the place in the source."""
    return f"warning: {' '.join(str(message).split())}\n"


def fail(message: str) -> int:
    """Print one line; returns the exit code."""
    line = " ".join(message.split())
    print(f"error: {line if len(line) <= 600 else line[:597] + '...'}", file=sys.stderr)
    return 2


def parse(name: str, text: str, command: Command, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; `config` is plain data that its schema has checked.

    Raises
    ------
    InputError
        For an unknown option, one that is missing, or a configuration that is none.
    """
    changes, words = configuration.split(arguments)
    options, others = _parser(name, text, command).parse_known_args(words)
    if others:
        _refuse(others[0], _parser(name, text, command))
    if changes and not command.schema:
        raise InputError(f"{name} takes no configuration, so that --{changes[0][:60]} means nothing")
    if command.schema:
        if options.config and options.name:
            raise InputError(f"two configurations, {options.name} and --config={options.config}; give one")
        chosen = options.config or options.name
        if not chosen:
            known = ", ".join(configuration.names())
            raise InputError(f"say which configuration: --config=FILE.py, or one by name: {known}")
        options.config = configuration.load(chosen)
        configuration.apply(options.config, changes)
        schema.check(command.schema, options.config)
    if command.workdir:
        if options.workdir == "":
            raise InputError("--workdir is empty; name a folder")
        if options.workdir is None and not command.schema:
            raise InputError("say which folder: --workdir=FOLDER")
        default = Path("workdir") / configuration.label(chosen) if command.schema else None
        options.workdir = expanded(options.workdir) if options.workdir else default
    return options


def _refuse(word: str, parser: argparse.ArgumentParser) -> NoReturn:
    if not word.startswith("-"):
        raise InputError(f"unexpected argument {word[:60]!r}; options are written --name=value")
    given = word.partition("=")[0]
    known = [option for action in parser._actions for option in action.option_strings if option[:2] == "--"]
    near = difflib.get_close_matches(given, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"unknown option {given[:60]}; {hint}choose from: {', '.join(known)}")


def _parser(name: str, text: str, command: Command) -> Parser:
    parser = Parser(
        prog=f"srdef {name}",
        description=text.strip(),
        epilog=_epilog(command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command.schema:
        parser.add_argument(
            "name", nargs="?", metavar="CONFIGURATION", help="a configuration by name, or a file"
        )
        parser.add_argument(
            "--config",
            metavar="FILE.py[:ARGUMENT]",
            help="the same; --config.FIELD=VALUE changes one of its fields",
        )
    if command.workdir:
        where = "; default: workdir/CONFIGURATION" if command.schema else ""
        parser.add_argument(
            "--workdir", metavar="FOLDER", help=f"folder for everything the run computes and leaves{where}"
        )
    if command.schema and command.workdir and command.overwrites:
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="replace the results of another configuration in the same folder",
        )
    command.options(parser)
    parser.add_argument(
        "--nocache", action="store_true", help="do not keep compiled programs for the next run"
    )
    return parser


def _epilog(command: Command) -> str:
    """The fields of the command's configuration, and how to change them."""
    if not command.schema:
        return ""
    lines = [
        f"configurations: {', '.join(configuration.names())}",
        "",
        "fields, each of which --config.FIELD=VALUE changes (2/255 is a number too):",
    ]
    for field, text in schema.describe(schema.SCHEMAS[command.schema]):
        lines += textwrap.wrap(text, 100, initial_indent=f"  {field}: ", subsequent_indent="      ")
    return "\n".join(
        [
            *lines,
            "",
            "labels and lists: --config.attacks.FGSM-2.epsilon=3/255",
            "                  '--config.attacks[\"C&W 3x60\"].steps=10'",
            "                  '--config.defenses.WD+SR[0].sigma=0.05'",
        ]
    )


def exact_arithmetic() -> None:
    """Compute matrix products and convolutions in float32 on every device.

    GPUs and TPUs otherwise round their factors (an NVIDIA GPU to TF32, 10 bits of mantissa), and reported
    numbers would depend on the machine. What chooses its own precision, as the training, keeps it.
    """
    jax.config.update("jax_default_matmul_precision", "highest")


def refuse_another(workdir: Path, config: dict[str, Any], overwrite: bool, option: str = "--workdir") -> None:
    """InputError if `workdir` holds the results of another configuration, unless they may be overwritten.

    `option` is the one that names the folder: a `--workdir` keeps what a run has computed on its way.
    """
    if overwrite:
        return
    file = workdir / "config.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); choose another {option}, or --overwrite"
        ) from None
    kept_on_the_way = " (what was computed is kept and used where it fits)" if option == "--workdir" else ""
    for difference in differences(kept, json.loads(json.dumps(config))):
        raise InputError(
            f"{workdir} holds the results of another configuration: {difference}; choose another {option}, "
            f"or replace them by --overwrite{kept_on_the_way}"
        )


def differences(kept: Any, wanted: Any, where: str = "config") -> Iterator[str]:
    """Where two configurations differ, in words."""
    if not (isinstance(kept, dict) and isinstance(wanted, dict)):
        if kept != wanted:
            yield f"{where} is {plain_data.brief(kept)} there and {plain_data.brief(wanted)} here"
        return
    for name in [*wanted, *(name for name in kept if name not in wanted)]:
        if name not in kept:
            yield f"{where}.{name} is not there"
        elif name not in wanted:
            yield f"{where}.{name} is only there"
        else:
            yield from differences(kept[name], wanted[name], f"{where}.{name}")
