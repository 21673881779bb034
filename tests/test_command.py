"""What the command's process does before anything else."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import srdef.commands
from srdef.command import COMMANDS, EXTRAS


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_letter_that_a_terminal_does_not_have_ends_nothing(encoding):
    """`srdef attack --help` has an ε."""
    done = subprocess.run(
        [sys.executable, "-m", "srdef", "attack", "--help"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "a plot of accuracy against ?." in done.stdout.decode(encoding)


def without(module, code):
    """What Python does with `code` where `module` is not installed."""
    code = f"import sys; sys.modules[{module!r}] = None; from srdef import command; {code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "module"),
    [("attack", "ml_collections"), ("evaluate", "tensorstore"), ("report", "markdown_it")],
)
def test_one_line_where_only_the_library_is_installed(command, module):
    done = without(module, f"sys.argv[1:] = ['--help']; command.entry({command!r})")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: srdef {command} needs {module}; install the commands' packages: "
        'pip install -e ".[experiments]", or ".[all]" with the sample images and classifiers\n'
    )


def test_what_the_code_of_a_user_imports_is_not_one_of_the_commands_packages(tmp_path):
    """A defense that imports it in the middle of a run, say."""
    (tmp_path / "mine.py").write_text("def call():\n    import matplotlib.pyplot\n")
    call = "import srdef.commands.cli as cli; import mine; cli.run = lambda *_: mine.call()"
    code = f"sys.path.append({str(tmp_path)!r}); {call}; command.entry('network-table')"
    done = without("matplotlib.pyplot", code)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "mine.py" in done.stderr


def test_the_commands_packages_are_those_of_the_extra():
    lines = (Path(__file__).parents[1] / "requirements-experiments.txt").read_text().splitlines()
    names = [re.split(r"[<>=\s]", line)[0] for line in lines if not line.startswith("#")]
    imported = {"orbax-checkpoint": "orbax", "markdown-it-py": "markdown_it"}
    assert tuple(imported.get(name, name.replace("-", "_")) for name in names) == EXTRAS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_what_works_outside_the_checkout_too(command):
    """That is `srdef COMMAND`, and the configurations by name."""
    file = Path(srdef.commands.__path__[0]) / f"{command.replace('-', '_')}.py"
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert f"srdef {command}" in text
    assert not re.search(r"experiments\.|configs/", text)
