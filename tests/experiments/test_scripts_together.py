"""Every command has its script, and the scripts do what the commands do."""

import importlib
import io
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import experiments
from srdef import command, commands
from srdef.commands import cli
from srdef.evaluation.progress import Reporter
from srdef.evaluation.summaries import Strength
from srdef.metrics import rate
from srdef.reporting import tables

ROOT = Path(__file__).parents[2]
NAMES = [name.replace("-", "_") for name in command.COMMANDS]


def test_every_command_has_a_module_and_a_script():
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__) if not module.ispkg}
    assert set(NAMES) == modules - {"cli", "configuration", "processes", "specifications"}
    assert set(NAMES) == {module.name for module in pkgutil.iter_modules(experiments.__path__)}


@pytest.mark.parametrize("name", NAMES)
def test_help_names_every_option_and_field(name, capsys):
    module = importlib.import_module(f"srdef.commands.{name}")
    with pytest.raises(SystemExit) as caught:
        cli.run(name.replace("_", "-"), module, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert module.__doc__.strip().splitlines()[0] in text
    if module.COMMAND.schema:
        assert "--config FILE.py" in text
        assert "  config.seed: everything random is drawn from it" in text
        assert "quickstart" in text
    if module.COMMAND.workdir:
        assert "--workdir FOLDER" in text


def test_only_commands_that_overwrite_have_the_option(capsys):
    having = set()
    for name in NAMES:
        module = importlib.import_module(f"srdef.commands.{name}")
        with pytest.raises(SystemExit):
            cli.run(name, module, ["--help"])
        if "--overwrite" in capsys.readouterr().out:
            having.add(name)
    assert having == {"adaptive", "attack", "defense_gallery", "evaluate", "manifold", "transfer"}


def test_labels_are_printed_as_they_are(monkeypatch):
    """And not taken for the markup of the library that prints them."""
    text = io.StringIO()
    monkeypatch.setattr(cli.console, "file", text)
    half = rate(np.array([True, False]))
    strengths = [Strength(f"F [{name}]", "uint8", half, linf=0.1, l2=1.0) for name in ("a=2", "/2")]
    cli.console.print(tables.attacks_to_rich(strengths))
    with Reporter(cli.console).step("F [/3]", 3, 3):
        pass
    with Reporter(Console(file=text, force_terminal=True)).step("F [/4]", 3, 3):
        pass
    assert all(f"F [{name}]" in text.getvalue() for name in ("a=2", "/2", "/3", "/4"))


def test_a_script_is_the_command():
    """Both print the same line for the same mistake."""
    found = [
        subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (["experiments.convert_weights", "resnet50"], ["srdef", "convert-weights", "resnet50"])
    ]
    assert (
        found[0].stderr
        == found[1].stderr
        == ("error: usage: convert-weights NETWORK FILE [--output=FILE.safetensors]\n")
    )
    assert [process.returncode for process in found] == [2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage: srdef COMMAND"),
        (["--help"], "usage: srdef COMMAND"),
        (["--version"], "srdef 0.1.0"),
        (["evalute"], "error: unknown command 'evalute'; did you mean evaluate? choose from: evaluate, "),
    ],
)
def test_without_a_command(words, message, capsys):
    code = command.main(words)
    printed = capsys.readouterr()
    assert (printed.out + printed.err).startswith(message)
    assert code == (0 if words and words[0].startswith("--") else 2)
