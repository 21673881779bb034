"""What the command's process does before anything else."""

import os
import subprocess
import sys

import pytest


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
