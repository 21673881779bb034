"""A run with code of one's own: found beside the configuration, stale when the code changes, reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MINE = """
import flax.struct
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Network(nnx.Module):
    def __init__(self, rngs, width):
        self.out = nnx.Linear(3, width, rngs=rngs)

    def __call__(self, images):
        return FACTOR * self.out(images.mean((1, 2)) - 0.5)


FACTOR = 20


def network(width=4, *, rngs):
    return Network(rngs, width)


def data():
    images = np.random.default_rng(0).random((6, 8, 8, 3)).round(1)
    return images, np.asarray([network(rngs=nnx.Rngs(0))(images[i : i + 1]).argmax() for i in range(5)] + [3])


@flax.struct.dataclass
class Darken:
    factor: float = 0.9
    random = False
    differentiable = True

    def __call__(self, image, key):
        return self.factor * image
"""

# Names of all kinds, and a defense that registers itself.
CONFIG = """
from mine_of_this_test import Darken
from srdef.defenses import REGISTRY

REGISTRY.register("darken_of_this_test")(Darken)


def get_config():
    return {
        "seed": 0,
        "batch_size": 4,
        "dataset": {"name": "mine_of_this_test:data"},
        "classifier": {"name": "mine_of_this_test.py:network", "width": 4},
        "attacks": {
            "FGSM": {"name": "fgsm", "epsilon": 2 / 255},
            "own": {"name": "mine_of_this_test:attack"},
        },
        "defenses": {
            "none": {"name": "identity"},
            "registered": {"name": "darken_of_this_test", "factor": 0.8},
            "named": [{"name": "mine_of_this_test.py:Darken"}, {"name": "identity"}],
        },
    }
"""

ATTACK = """

from srdef.attacks import fgsm


def attack(epsilon=4 / 255):
    return fgsm(epsilon)
"""


def srdef(*words, cwd):
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.run(
        [sys.executable, "-m", "srdef", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return process


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    code, elsewhere = tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("elsewhere")
    (code / "mine_of_this_test.py").write_text(MINE + ATTACK)
    (code / "config.py").write_text(CONFIG)
    return code, elsewhere


def evaluate(places, workdir):
    code, elsewhere = places
    process = srdef("evaluate", f"--config={code / 'config.py'}", f"--workdir={workdir}", cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    return process.stdout


def stores(workdir):
    """The folders of adversarial images and predictions, each named by what its content depends on."""
    return {path.relative_to(workdir) for path in (workdir / "store").glob("*/*") if path.is_dir()}


@pytest.mark.slow
def test_a_run_finds_notes_and_reports_code_of_ones_own(places, tmp_path):
    """Run from a folder that has none of it, and reported from a third one."""
    code, _ = places
    workdir = tmp_path / "run"
    evaluate(places, workdir)
    config = json.loads((workdir / "config.json").read_text())
    assert config["classifier"]["name"] == "mine_of_this_test.py:network"
    noted = json.loads((workdir / "environment.json").read_text())["imports"]
    own = {f"mine_of_this_test{name}" for name in (".py:network", ".py:Darken", ":data", ":attack")}
    assert own <= set(noted)
    files = {entry["file"] for entry in noted.values()}
    assert files == {str(code / "mine_of_this_test.py"), str(code / "config.py")}

    process = srdef("report", f"--workdir={workdir}", "--images=2", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    page = (workdir / "report.html").read_text()
    assert "mine_of_this_test.py:network" in page
    assert str(code / "mine_of_this_test.py") in page

    # Other code of the model is another result.
    kept = stores(workdir)
    assert len(kept) > 6
    (code / "mine_of_this_test.py").write_text((MINE + ATTACK).replace("FACTOR = 20", "FACTOR = 19"))
    evaluate(places, workdir)
    assert len(stores(workdir)) == 2 * len(kept)
    assert kept < stores(workdir)
    again = json.loads((workdir / "environment.json").read_text())["imports"]
    assert again["mine_of_this_test:data"]["sha256"] != noted["mine_of_this_test:data"]["sha256"]

    (code / "mine_of_this_test.py").write_text(MINE + ATTACK + "\n# Looked at again.\n")
    process = srdef("report", f"--workdir={workdir}", "--images=1", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "mine_of_this_test.py, which the run imported, has changed since then" in process.stderr


def test_one_line_for_what_is_missing(places, tmp_path):
    code, elsewhere = places
    for name, message in (
        ("mine_of_this_test.py:nothing", "model 'mine_of_this_test.py:nothing': mine_of_this_test.py has no"),
        ("yours_of_this_test:build", "no module 'yours_of_this_test', neither installed nor in"),
    ):
        process = srdef(
            "evaluate",
            f"--config={code / 'config.py'}",
            f"--config.classifier.name={name}",
            f"--workdir={tmp_path}",
            cwd=elsewhere,
        )
        assert process.returncode == 2
        assert message in process.stderr
        assert process.stderr.count("\n") == 1
