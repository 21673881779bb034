"""One run in several processes on this machine: the bytes of one process, also after one has been killed."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from srdef import memory
from srdef.commands import cli, evaluate, processes
from srdef.errors import InputError
from srdef.evaluation import batch_sizes
from srdef.evaluation.links import Place
from srdef.storage import store

ROOT = Path(__file__).parents[2]

# How many runs are killed in one test, each at another moment.
KILLS = int(os.environ.get("SRDEF_PROCESS_KILLS", "4"))

TOY = """
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.datasets import base


class Network(nnx.Module):
    num_classes = 4

    def __init__(self):
        weights = 40 * np.random.default_rng(1).normal(size=(12, 4))
        self.weights = nnx.Param(jnp.asarray(weights, jnp.float32))

    def __call__(self, images):
        n, height, width, _ = images.shape
        images = images[:, : height // 2 * 2, : width // 2 * 2]
        quarters = images.reshape(n, 2, height // 2, 2, width // 2, 3).mean(axis=(2, 4)) - 0.5
        return quarters.reshape(n, -1) @ self.weights[...]


def network(*, rngs):
    return Network()


def data_on_disk():
    base.LARGEST_IN_MEMORY = 0
    return data()


def data(count=41):
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    labels = np.array(Network()(images / np.float32(255)).argmax(-1))
    labels[3] = (labels[3] + 1) % 4
    return images, labels
"""

# What both configurations have.
COMMON = """
        "seed": 0,
        "batch_size": 2,
        "dataset": {"name": "toy_of_processes.py:data"},
        "classifier": {"name": "toy_of_processes.py:network"},
"""

CONFIG = """
def get_config():
    return {COMMON
        "attacks": {
            "FGSM-2": {"name": "fgsm", "epsilon": 2 / 255, "storage": "uint8"},
            "MI-FGSM-4": {"name": "mifgsm", "epsilon": 4 / 255, "steps": 3, "storage": "float32"},
        },
        "defenses": {"none": {"name": "identity"}, "pad": {"name": "resize_pad", "passes": 2}},
        "gallery": {"attack": "FGSM-2", "images": 2},
    }
"""

ADAPTIVE = """
def get_config():
    return {COMMON
        "other_classifier": {"name": "toy_of_processes.py:network"},
        "defenses": {"none": {"name": "identity"}, "pad": {"name": "resize_pad"}},
        "threats": {
            "gray-box": {"knows": "classifier", "attack": {"name": "fgsm"}},
            "adaptive": {"knows": "gradient", "attack": {"name": "mifgsm", "steps": 3}},
        },
        "epsilons": (2 / 255, 4 / 255),
        "final_draws": 4,
        "checks": {"epsilon": 4 / 255, "images": 2, "steps": 2, "queries": 5, "draws": 2, "effort": 2},
        "rows": (),
        "columns": (),
    }
"""

# What must be the same however many processes there were.
FILES = ("records.parquet", "table.json", "table.md", "attacks.json", "config.json", "gallery.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the code and the configurations."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "toy_of_processes.py").write_text(TOY)
    (folder / "config.py").write_text(CONFIG.replace("COMMON", COMMON))
    on_disk = CONFIG.replace("COMMON", COMMON).replace(":data", ":data_on_disk")
    automatic = CONFIG.replace("COMMON", COMMON).replace('"batch_size": 2', '"batch_size": "auto"')
    (folder / "auto.py").write_text(automatic)
    (folder / "on_disk.py").write_text(on_disk)
    (folder / "adaptive.py").write_text(ADAPTIVE.replace("COMMON", COMMON))
    return folder


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(place, workdir, *words, command="evaluate", config="config.py"):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    words = (command, f"--config={config}", f"--workdir={workdir}", *words)
    return subprocess.Popen(
        [sys.executable, "-m", "srdef", *words],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_all(place, workdir, count, **options):
    """All processes, process 0 last."""
    where = f"--coordinator=127.0.0.1:{free_port()}"
    started = {
        index: start(place, workdir, where, f"--processes={count}", f"--process={index}", **options)
        for index in reversed(range(count))
    }
    return [started[index] for index in range(count)]


def end(process):
    """Exit code, output and errors."""
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def run(place, workdir, count, **options):
    """What process 0 prints, after all have done well and the others have said nothing."""
    first, *others = [end(process) for process in start_all(place, workdir, count, **options)]
    for code, _, errors in (first, *others):
        assert (code, errors) == (0, "")
    assert all(output == "" for _, output, _ in others)
    return first[1]


def contents(workdir, files=FILES):
    return {name: (workdir / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def alone(place, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    code, _, errors = end(start(place, workdir))
    assert (code, errors) == (0, "")
    return workdir


def wait_for_files(processes, workdir, count):
    """Until the run has written so many files, or has ended."""
    while all(process.poll() is None for process in processes) and len(list(workdir.rglob("*"))) < count:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_many_processes_leave_the_bytes_of_one(place, alone, tmp_path, count):
    output = run(place, tmp_path, count)
    assert contents(tmp_path) == contents(alone)
    assert pq.read_table(tmp_path / "records.parquet").num_rows > 41
    assert f"Process 0 of {count} waits" in output
    # Every process writes with its own name: none did all the work of the longest step.
    step = next(line for line in output.splitlines() if line.startswith("attack MI-FGSM-4"))
    assert re.search(r" 40 images ", step)
    # And once more, with another number of processes: nothing is left to do.
    again = run(place, tmp_path, 3)
    assert " images " not in again.split("Attacks")[0]
    assert contents(tmp_path) == contents(alone)


@pytest.mark.slow
def test_a_batch_size_that_is_found_is_one_for_all_and_stays(place, tmp_path):
    code, _, errors = end(start(place, tmp_path / "one", config="auto.py"))
    assert (code, errors) == (0, "")
    output = run(place, tmp_path / "two", 2, config="auto.py")
    assert f"batch_size={memory.CPU_BATCH}" in output
    assert contents(tmp_path / "two") == contents(tmp_path / "one")

    def sizes(name):
        manifests = (tmp_path / name / "store" / "adversarial").glob("MI-FGSM-4-*/manifest.json")
        return {json.loads(manifest.read_text())["batch_size"] for manifest in manifests}

    assert sizes("one") == sizes("two") == {memory.CPU_BATCH}
    # As if it had begun on another machine.
    kept = tmp_path / "two" / batch_sizes.FILE
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "batch_size": 7}))
    output = run(place, tmp_path / "two", 2, config="auto.py")
    assert "batch_size=" not in output
    assert sizes("two") == {memory.CPU_BATCH, 7}


@pytest.mark.slow
def test_images_on_the_disk_in_three_processes(place, alone, tmp_path):
    """Each reads its own batches; hashes and first predictions of the others come from the store."""
    run(place, tmp_path, 3, config="on_disk.py")
    same = ("records.parquet", "table.json", "table.md", "gallery.png")
    assert contents(tmp_path, same) == contents(alone, same)
    (first,) = (tmp_path / "store" / "images").iterdir()
    assert len(list((first / "hash").glob("*.0"))) == 21


@pytest.mark.slow
def test_one_is_killed_and_another_number_of_processes_continues(place, alone, tmp_path):
    """The others end within seconds, each with one line that names the dead one."""
    generator = random.Random(0)
    killed = 0
    for trial in range(10 * KILLS):
        if killed == KILLS:
            break
        workdir = tmp_path / str(trial)
        count = generator.choice([2, 3, 4])
        victim = generator.randrange(count)
        started = start_all(place, workdir, count)
        wait_for_files(started, workdir, generator.randrange(5, 300))
        started[victim].send_signal(signal.SIGKILL)
        since = time.monotonic()
        ended = [end(process) for process in started]
        if ended[victim][0] == 0:
            continue  # it was faster
        killed += 1
        assert time.monotonic() - since < 60
        for index, (code, _, errors) in enumerate(ended):
            if index == victim:
                assert code == -signal.SIGKILL
                continue
            if code == 0:  # it had left: everything was computed
                continue
            assert code == 1, errors
            assert re.fullmatch(
                rf"error: process {victim}( \(.*, process id \d+\))? has ended \(its connection broke\); "
                r"the same command continues from here\n",
                errors,
            )
        run(place, workdir, generator.choice([2, 3]))
        assert contents(workdir) == contents(alone)
    assert killed == KILLS


@pytest.mark.slow
def test_adaptive_in_two_processes(place, tmp_path):
    code, _, errors = end(start(place, tmp_path / "one", command="adaptive", config="adaptive.py"))
    assert (code, errors) == (0, "")
    run(place, tmp_path / "two", 2, command="adaptive", config="adaptive.py")
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file()}
        for name in ("one", "two")
    )
    assert set(one) == set(two)
    same = [name for name in one if name.endswith((".json", ".md")) and name != "environment.json"]
    assert len(same) > 3
    for name in same:
        assert one[name] == two[name], name


@pytest.mark.slow
def test_a_process_that_fails_says_why_to_all(place, tmp_path):
    """A disk that only one of them cannot write to, here a file in the place of the store."""
    (tmp_path / "store").write_text("")
    for code, _, errors in (end(process) for process in start_all(place, tmp_path, 2)):
        assert code in (1, 2)
        assert errors.count("\n") == 1
        assert f"cannot write to {tmp_path}/store" in errors


@pytest.mark.slow
def test_another_run_is_kept_out_and_says_so_to_all(place, tmp_path):
    with store.exclusive(tmp_path):
        ended = [end(process) for process in start_all(place, tmp_path, 2)]
    assert [code for code, _, _ in ended] == [2, 1]
    for _, _, errors in ended:
        assert errors.count("\n") == 1
        assert f"workdir {tmp_path} is in use by another run (process {os.getpid()})" in errors


SRUN = """#!/bin/bash
# Starts two tasks as SLURM does on one machine, for a job that was given to it by sbatch.
words=("$@")
while [[ ${words[0]} == --* ]]; do words=("${words[@]:1}"); done
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
for task in 1 0; do SLURM_PROCID=$task SLURM_LOCALID=$task "${words[@]}" & done
wait -n && wait -n
"""


@pytest.mark.slow
def test_the_script_for_slurm(place, alone, tmp_path):
    """With a stand-in for `srun`; JAX takes the port from the number of the job unless it is told one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "srdef").write_text(f'#!/bin/bash\nexec {sys.executable} -m srdef "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    workdir = tmp_path / "run"
    process = subprocess.run(
        [ROOT / "scripts" / "slurm.sh", "evaluate", "--config=config.py", f"--workdir={workdir}"],
        cwd=place,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "JAX_COORDINATOR_PORT": str(free_port()),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "Process 0 of 2 waits for the others at localhost:" in process.stdout
    assert contents(workdir) == contents(alone)


def options(*words):
    return cli.parse("evaluate", "", evaluate.COMMAND, ["quickstart", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes=2"], "belong together: --coordinator is missing"),
        (["--coordinator=a:1", "--process=0"], "belong together: --processes is missing"),
        (["--coordinator=a", "--processes=2", "--process=0"], "--coordinator must be HOST:PORT, not 'a'"),
        (["--coordinator=a:0", "--processes=2", "--process=0"], "--coordinator must be HOST:PORT"),
        (["--coordinator=:1", "--processes=2", "--process=0"], "--coordinator must be HOST:PORT"),
        (["--coordinator=a:1", "--processes=two", "--process=0"], "--processes must be a whole number"),
        (["--coordinator=a:1", "--processes=0", "--process=0"], "--processes must be at least 1"),
        (["--coordinator=a:1", "--processes=2", "--process=2"], "--process must be one of 0 to 1, not 2"),
        (["--distributed", "--processes=2"], "--distributed finds coordinator and processes by itself"),
        (["--distributed"], "started by none of the launchers that JAX knows"),
    ],
)
def test_options_that_do_not_fit(words, message):
    with pytest.raises(InputError) as caught:
        processes.place_of(options(*words))
    assert message in str(caught.value)


def test_places(monkeypatch):
    assert processes.place_of(options()) is None
    chosen = options("--coordinator=[::1]:80", "--processes=3", "--process=2")
    assert processes.place_of(chosen) == Place("[::1]:80", 3, 2)
    assert processes.place_of(chosen).address == ("::1", 80)
    slurm = {
        "JOB_ID": "4096",
        "STEP_NODELIST": "node[07-09],x1",
        "NTASKS": "3",
        "PROCID": "1",
        "LOCALID": "0",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert processes.place_of(options("--distributed")) == Place("node07:61440", 3, 1)
    monkeypatch.setenv("SLURM_JOB_ID", "none")
    with pytest.raises(InputError, match="the launcher's description is not understood"):
        processes.place_of(options("--distributed"))
