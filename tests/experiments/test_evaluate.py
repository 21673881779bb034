"""The main job as a user runs it: processes, exit codes, files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from srdef.commands import evaluate as script
from srdef.errors import InputError

ROOT = Path(__file__).parents[2]
# Each kills or interrupts a run at six places of its own; `make test-faults` takes more.
SEEDS = range(int(os.environ.get("SRDEF_FAULT_SEEDS", "1")))

CONFIG = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.seed = 3
    config.batch_size = 2
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": 128, "limit": 5})
    config.classifier = ConfigDict({"name": "efficientnet_lite0", "pretrained": True})
    config.attacks = ConfigDict(
        {
            "FGSM-2": {"name": "fgsm", "epsilon": 2 / 255, "storage": "uint8"},
            "MI-FGSM-4": {"name": "mifgsm", "epsilon": 4 / 255, "steps": 2, "storage": "float32"},
        }
    )
    config.defenses = ConfigDict(
        {
            "no defense": {"name": "identity"},
            "WD+SR": [
                {"name": "wavelet", "sigma": 0.04},
                {"name": "super_resolution", "network": "edsr_small_x2"},
            ],
        }
    )
    config.gallery = ConfigDict({"attack": "FGSM-2", "images": 2})
    return config
"""

# What must be the same however often the run was killed.
FILES = ("records.parquet", "table.json", "table.md", "config.json", "gallery.png")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def environment():
    """With it the runs of this file share what they compile, which is not what they are about."""
    return dict(os.environ)


def command(config, workdir, *flags):
    return [
        sys.executable,
        "-m",
        "experiments.evaluate",
        f"--config={config}",
        f"--workdir={workdir}",
        *flags,
    ]


def evaluate(config, workdir, environment, *flags, **options):
    return subprocess.run(
        command(config, workdir, *flags), cwd=ROOT, env=environment, capture_output=True, text=True, **options
    )


@pytest.fixture(scope="module")
def finished(config, environment, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    process = evaluate(config, workdir, environment)
    assert process.returncode == 0, process.stderr
    return workdir, process.stdout


def contents(workdir):
    return {name: (workdir / name).read_bytes() for name in FILES}


def test_leaves_records_table_gallery_and_configuration(finished):
    workdir, output = finished
    records = pq.read_table(workdir / "records.parquet").to_pylist()
    correct = {row["image_id"] for row in records if row["clean_correct"]}
    assert 3 <= len(correct) <= 5
    # Clean images all, adversarial images those classified correctly; each with both defenses.
    assert len(records) == 2 * 5 + 2 * 2 * len(correct)
    assert all(row["correct"] == (row["prediction"] == row["label"]) for row in records)
    attacked = [row for row in records if row["attack"] == "FGSM-2"]
    assert all(row["linf"] == pytest.approx(2 / 255, abs=1e-6) for row in attacked)
    undefended = [row for row in records if row["defense"] == "no defense" and row["attack"] != "clean"]
    # Success as the attack saw it is the undefended classifier's answer, both on what was stored.
    assert all(row["fooled"] != row["correct"] for row in undefended)

    table = json.loads((workdir / "table.json").read_text())
    assert table["attacks"] == ["clean", "FGSM-2", "MI-FGSM-4"]
    assert table["defenses"] == ["no defense", "WD+SR"]
    assert table["clean_accuracy"]["successes"] == len(correct)
    assert "seed 3" in " ".join(output.split())
    assert "WD+SR" in output
    # On every device, or an accelerator would round the factors of products.
    assert json.loads((workdir / "environment.json").read_text())["matmul_precision"] == "highest"
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["attacks"]["FGSM-2"]["epsilon"] == 2 / 255
    assert Image.open(workdir / "gallery.png").width > 500


def test_a_second_run_computes_nothing(finished, config, environment):
    workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != "lock"}
    process = evaluate(config, workdir, environment)
    assert process.returncode == 0, process.stderr
    assert " images " not in process.stdout.split("Attacks")[0]
    assert "WD+SR" in process.stdout
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.name != "lock"}


@pytest.mark.slow
def test_a_changed_configuration_recomputes_what_depends_on_it(finished, config, environment, tmp_path):
    workdir, _ = finished
    before = contents(workdir)
    changed = tmp_path / "changed.py"
    changed.write_text(CONFIG.replace('"epsilon": 2 / 255', '"epsilon": 3 / 255'))
    process = evaluate(changed, workdir, environment)
    assert process.returncode == 2
    assert process.stderr == (
        f"error: {workdir} holds the results of another configuration: config.attacks.FGSM-2.epsilon is "
        f"{2 / 255} there and {3 / 255} here; choose another --workdir, or replace them by --overwrite (what "
        "was computed is kept and used where it fits)\n"
    )
    assert contents(workdir) == before
    process = evaluate(changed, workdir, environment, "--overwrite")
    assert process.returncode == 0, process.stderr
    steps = process.stdout.split("Attacks")[0]
    assert "attack FGSM-2" in steps
    assert "attack MI-FGSM-4" not in steps
    rows = pq.read_table(workdir / "records.parquet").to_pylist()
    assert all(row["linf"] == pytest.approx(3 / 255, abs=1e-6) for row in rows if row["attack"] == "FGSM-2")
    # And back: everything is still there.
    process = evaluate(config, workdir, environment, "--overwrite")
    assert "attack" not in process.stdout.split("Attacks")[0]
    assert contents(workdir) == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_anywhere_it_ends_with_the_same_bytes(finished, config, environment, tmp_path, seed):
    generator = random.Random(seed)
    kills = 0
    while kills < 6:
        process = subprocess.Popen(
            command(config, tmp_path),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # Kill it once the store has grown by a random number of files since the start.
        target = len(list(tmp_path.rglob("*"))) + generator.randrange(1, 60)
        while process.poll() is None and len(list(tmp_path.rglob("*"))) < target:
            time.sleep(0.002)
        if process.poll() is not None:
            break  # it was faster, and has finished
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills >= 3
    assert evaluate(config, tmp_path, environment).returncode == 0
    assert contents(tmp_path) == contents(finished[0])


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_interrupted_anywhere_it_says_so_and_ends_with_the_same_bytes(
    finished, config, environment, tmp_path, seed
):
    """Ctrl-C is heard every time; nothing is lost or half written."""
    generator = random.Random(seed)
    stops = 0
    while stops < 6:
        process = subprocess.Popen(
            command(config, tmp_path),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        target = len(list(tmp_path.rglob("*"))) + generator.randrange(1, 60)
        while process.poll() is None and len(list(tmp_path.rglob("*"))) < target:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            break  # it was faster, and has finished
        assert process.returncode == 130
        assert errors.split("\n") == [
            *("", "stopping after this step; Ctrl-C again stops at once"),
            *("stopped; the same command continues from here", ""),
        ]
        stops += 1
    assert stops >= 3
    assert evaluate(config, tmp_path, environment).returncode == 0
    assert contents(tmp_path) == contents(finished[0])


@pytest.mark.slow
def test_eight_devices_give_the_results_of_one(finished, config, environment, tmp_path):
    flags = "--xla_force_host_platform_device_count=8"
    process = evaluate(config, tmp_path, {**environment, "XLA_FLAGS": flags})
    assert process.returncode == 0, process.stderr
    assert len(json.loads((tmp_path / "environment.json").read_text())["devices"]) == 8
    assert contents(tmp_path)["table.json"] == contents(finished[0])["table.json"]
    records, expected = (pq.read_table(folder / "records.parquet") for folder in (tmp_path, finished[0]))
    # One image on each device instead of two: XLA adds up in another order, last bits of floats differ.
    floats = [field.name for field in records.schema if pa.types.is_floating(field.type)]
    assert {"confidence", "linf", "l2"} <= set(floats)
    for name in floats:
        np.testing.assert_allclose(records[name].to_numpy(), expected[name].to_numpy(), rtol=0, atol=1e-5)
    assert records.drop_columns(floats).equals(expected.drop_columns(floats))


@pytest.mark.slow
def test_a_second_run_at_once_is_refused(config, environment, tmp_path):
    first = subprocess.Popen(
        command(config, tmp_path),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (tmp_path / "store").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = evaluate(config, tmp_path, environment)
        assert second.returncode == 2
        assert second.stderr.strip() == (
            f"error: workdir {tmp_path} is in use by another run (process {first.pid}); "
            "wait for it or choose another --workdir"
        )
    finally:
        first.kill()
        first.wait()


def broken(tmp_path, old, new):
    path = tmp_path / "broken.py"
    assert old in CONFIG
    path.write_text(CONFIG.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "fgsm"', '"name": "fgms"', "unknown attack 'fgms'; choose from: "),
        ('"name": "wavelet"', '"name": "wavelets"', "unknown defense 'wavelets'"),
        ('"efficientnet_lite0"', '"resnet9"', "unknown model 'resnet9'"),
        ('"imagenet_samples"', '"imagenet"', "unknown data set 'imagenet'"),
        ("epsilon", "epsylon", "epsylon"),
        ('"sigma": 0.04', '"sigmas": 0.04', "sigmas"),
        ('"limit": 5', '"limits": 5', "limits"),
        (
            "config.batch_size = 2",
            "config.batch_sise = 2",
            "unknown field config.batch_sise; choose",
        ),
        ("config.batch_size = 2", "config.batch_size = 0", "config.batch_size"),
        (
            "config.seed = 3",
            "config.seed = 3; config.arithmetic = 'fp8'",
            "config.arithmetic is 'fp8'; choose from: float32, tensorfloat32, bfloat16",
        ),
        ("config.seed = 3", "", "field config.seed is missing"),
        ('"attack": "FGSM-2", "images"', '"attack": "FGSM-3", "images"', "FGSM-3"),
        ('"uint8"', '"uint16"', "storage is 'uint16'; choose from: float32, uint8"),
        ('"name": "efficientnet_lite0", "pretrained": True', '"name": "edsr_small_x2"', "not a classifier"),
    ],
)
def test_bad_configurations(tmp_path, old, new, message):
    """In this process, for speed; the way from the command line is tested below."""
    path = broken(tmp_path, old, new)
    namespace = {}
    exec(path.read_text(), namespace)
    with pytest.raises(InputError) as caught:
        script.main(namespace["get_config"](), tmp_path / "workdir")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "workdir").exists()


def test_a_model_that_takes_another_size_is_said(tmp_path):
    (tmp_path / "mine.py").write_text(
        """
import jax.numpy as jnp
from srdef import models

def build():
    weights = jnp.zeros((32 * 32 * 3, 1000))
    return models.from_function(lambda w, x: x.reshape(len(x), -1) @ w, weights, num_classes=1000)
"""
    )
    new = f'"name": "{tmp_path}/mine.py:build"'
    namespace = {}
    exec(CONFIG.replace('"name": "efficientnet_lite0", "pretrained": True', new), namespace)
    with pytest.raises(
        InputError, match=r"^a function does not take images of 128x128x3: TypeError: [^\n]*$"
    ):
        script.main(namespace["get_config"](), tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config={config}", "--workdir={file}/run"], "cannot write to workdir"),
        (
            ["--config={config}", "--workdir={new}", "--config.bacth_size=3"],
            "unknown field config.bacth_size",
        ),
        pytest.param(["--config={new}.py", "--workdir={new}"], "{new}.py", marks=pytest.mark.slow),
        (
            ["--config=configs/table1.py:lite9", "--workdir={new}"],
            "error: unknown argument 'lite9'; choose",
        ),
        pytest.param(["--workdir={new}"], "say which configuration", marks=pytest.mark.slow),
        pytest.param(
            ["--config={config}", "--workdir={new}", "extra"],
            "two configurations, extra and --config=",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--config={config}", "--workdir={new}", "--wrokdir=1"], "wrokdir", marks=pytest.mark.slow
        ),
    ],
)
def test_bad_command_lines_end_in_one_line_and_code_2(config, environment, tmp_path, flags, message):
    (tmp_path / "file").write_text("")
    names = {"config": config, "file": tmp_path / "file", "new": tmp_path / "new"}
    flags = [flag.format(**names) for flag in flags]
    process = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message.format(**names) in lines[0]
    assert not (tmp_path / "new").exists()
