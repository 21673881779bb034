"""One training in two processes of this machine, each with one device."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srdef.commands import cli, train_sr
from srdef.evaluation.links import Place
from srdef.training import patches, super_resolution
from srdef.weights import readers

ROOT = Path(__file__).parents[2]
STEPS = 8


def two_free_ports():
    """The first of two ports, one after the other, that nobody listens at."""
    for port in range(20_000 + os.getpid() % 20_000, 60_000, 2):
        try:
            for place in (port, port + 1):
                Place(f"127.0.0.1:{place}", 1, 0).listen().close()
        except cli.InputError:
            continue
        return port
    raise AssertionError("no free port")


def start(words, port, process):
    places = [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    command = [sys.executable, "-m", "srdef", "train-sr", *words, *places]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.slow
def test_killed_and_continued_two_processes_train_as_one(tmp_path):
    """The same losses and weights, sums in another order; the end of one process ends the other at once."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 18, 3), np.uint8))
    (tmp_path / "images").mkdir()
    noise.resize((96, 90), Image.Resampling.BICUBIC).save(tmp_path / "images" / "noise.png")
    words = [
        "train_edsr:compact_8x2_x2",
        f"--config.train_folder={tmp_path / 'images'}",
        f"--config.validation_folder={tmp_path / 'images'}",
        f"--config.steps={STEPS}",
        *("--config.batch_size=4", "--config.patch=16", "--config.warmup_steps=1", "--config.log_every=1"),
        *("--config.evaluate_every=4", "--config.checkpoint_every=2"),
    ]
    assert cli.run("train-sr", train_sr, [*words, f"--workdir={tmp_path / 'one'}"]) == 0

    two = tmp_path / "two"
    words.append(f"--workdir={two}")
    port = two_free_ports()
    running = [start(words, port, process) for process in (0, 1)]
    until = time.monotonic() + 200
    while not (two / "checkpoints.json").exists():
        assert time.monotonic() < until
        assert all(process.poll() is None for process in running), running[0].communicate()
        time.sleep(0.01)
    running[1].send_signal(signal.SIGTERM)  # which JAX would hear, and do nothing
    _, said = running[0].communicate(timeout=60)
    running[1].communicate(timeout=60)
    if running[0].returncode:  # or else it was faster
        assert running[0].returncode == 1
        assert "process 1" in said
        assert "has ended" in said
        assert "Traceback" not in said

    port = two_free_ports()
    running = [start(words, port, process) for process in (0, 1)]
    said = [process.communicate(timeout=280) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    # Process 0 reports; what Gloo says is its own.
    assert all(line.startswith("[Gloo]") for line in said[1][0].splitlines())

    expected, found = (super_resolution.read_metrics(tmp_path / n / "metrics.jsonl") for n in ("one", "two"))
    assert [record["step"] for record in found] == list(range(1, STEPS + 1))
    for name in ("loss", "psnr"):
        np.testing.assert_allclose(
            [record[name] for record in found if name in record],
            [record[name] for record in expected if name in record],
            rtol=1e-4,
        )
    weights = [readers.read(tmp_path / name / "compact.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    for name, array in weights[0].items():
        # Adam divides by the gradient's size, so a gradient near zero turns rounding into a part of the
        # step, which is at most the learning rate, 1e-3.
        np.testing.assert_allclose(array, weights[1][name], atol=2e-4)
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())


def test_each_process_makes_its_own_rows():
    """Together the rows of a batch, in the same order."""
    whole, first, second = (
        list(patches.batches(np.array, 6, 2, 4, rows)) for rows in (None, range(4), range(4, 6))
    )
    np.testing.assert_array_equal(whole, np.arange(12, 24).reshape(2, 6))
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)


def test_the_next_port_is_taken(tmp_path):
    """That of `jax.distributed`: one line, in place of its abort."""
    port = two_free_ports()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port + 1))
        taken.listen()
        words = ["train_edsr:compact_8x2_x2", f"--config.train_folder={tmp_path}", f"--workdir={tmp_path}"]
        running = [start(words, port, process) for process in (0, 1)]
        said = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [2, 1], said
    assert f"process 0 cannot listen at 127.0.0.1:{port + 1}" in said[0][1]
    assert "Traceback" not in said[0][1] + said[1][1]
