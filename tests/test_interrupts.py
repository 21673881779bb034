"""Ctrl-C in processes of their own: between steps, twice, before the work starts, and where it is ignored."""

import signal
import subprocess
import sys
import time

import pytest

# A run whose steps take a tenth of a second each; `gc.callbacks` swallow what is raised in them, as JAX's do.
RUN = """
import sys, time
from srdef import interrupts
interrupts.install()
{before}
print("ready", flush=True)
{start}
with interrupts.deferred():
    try:
        for step in range(100):
            print("step", step, flush=True)
            {work}
            interrupts.check()
    except KeyboardInterrupt:
        print("stopped between steps", flush=True)
        sys.exit(interrupts.EXIT_CODE)
"""

SWALLOWED = """
            try:
                time.sleep(0.1)
            except BaseException:
                pass
"""


def start(work="time.sleep(0.1)", before="", start=""):
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(work=work.strip(), before=before, start=start)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process, line):
    while (found := process.stdout.readline()) and not found.startswith(line):
        pass
    assert found.startswith(line)


def test_it_stops_after_the_step():
    process = start()
    read_until(process, "step 1")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.endswith("stopped between steps\n")
    assert errors.strip() == "stopping after this step; Ctrl-C again stops at once"


def test_nothing_swallows_it():
    """Code that catches everything, as a callback of JAX does, is not interrupted; the next check is."""
    process = start(work=SWALLOWED)
    read_until(process, "step 1")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output.endswith("stopped between steps\n")


def test_the_second_ends_the_process_at_once():
    process = start(work="time.sleep(60)")
    read_until(process, "step 0")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 30
    assert process.returncode == 130
    assert "between steps" not in output
    assert errors.split("\n") == [
        "",
        "stopping after this step; Ctrl-C again stops at once",
        "",
        "stopped",
        "",
    ]


def test_before_the_work_it_ends_at_once_without_a_traceback():
    process = start(start="time.sleep(60)")
    read_until(process, "ready")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "\nstopped\n"


def test_a_process_that_ignores_it_goes_on_ignoring_it():
    ignoring = RUN.format(work="time.sleep(0.001)", before="", start="")
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$0" "$@"', sys.executable, "-c", ignoring],
        stdout=subprocess.PIPE,
        text=True,
    )
    read_until(process, "ready")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "step 99" in output


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6, 1.0])
def test_while_a_command_is_imported(delay):
    """One line and no traceback, whatever is imported; or it was faster, and said what was missing."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import srdef.command as c, sys; print('ready', flush=True); sys.exit(c.main(['report']))",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read_until(process, "ready")
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) in [
        (130, "\nstopped\n"),
        (2, "error: say which folder: --workdir=FOLDER\n"),
    ]
