"""The manifold experiment: a whole run on a few images."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from configs import figures as figure_configuration
from configs import manifold as configuration
from experiments import cli
from experiments import manifold as script
from srdef import datasets, models
from srdef.analysis import figures
from srdef.errors import InputError
from srdef.evaluation import manifold as evaluation
from srdef.evaluation.protocol import Reporter
from srdef.models import manifold as network_module
from srdef.training import manifold


def run_config():
    config = configuration.get_config("lite0,samples")
    config.dataset.update({"size": 64, "limit": 12})
    config.batch_size = 4
    config.attacks = ConfigDict({"FGSM-10": {"name": "fgsm", "epsilon": 10 / 255, "storage": "uint8"}})
    config.defenses = ConfigDict({"bicubic ×2": config.defenses["bicubic ×2"]})
    config.manifold.update({"hidden": 32, "steps": 4, "evaluate_every": 2, "pairs_per_batch": 4})
    return cli.plain(config)


def quiet():
    return Reporter(Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("manifold")
    script.main(ConfigDict(run_config()), workdir)
    return workdir, evaluation.run(run_config(), workdir, quiet())


def test_a_run_counts_every_image(finished):
    workdir, result = finished
    assert result.images["train"] + result.images["test"] >= 3
    assert result.clean.total == result.images["test"]
    found = result.called_clean
    assert list(found) == ["as they are", "bicubic ×2"]
    assert list(found["bicubic ×2"]) == ["clean", "FGSM-10"]
    assert found["bicubic ×2"]["FGSM-10"].total == result.pairs["test"]
    caught = result.attacks["FGSM-10"][0]
    assert caught.successes + found["as they are"]["FGSM-10"].successes == result.pairs["test"]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert json.loads(result.to_json())["roc_auc"] == result.auc
    # The second run has only read what the first had left.
    assert (workdir / "manifold.md").read_text() == result.to_markdown()
    assert "| bicubic ×2 |" in result.to_markdown()
    assert (workdir / "curves.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_same_numbers(finished, tmp_path):
    """Stopped after two of four steps, by a configuration of two steps and its checkpoint."""
    workdir, result = finished
    config = run_config()
    (tmp_path / "store").symlink_to(workdir / "store")
    evaluation.run({**config, "manifold": {**config["manifold"], "steps": 2}}, tmp_path, quiet())
    Path(tmp_path / "config.json").unlink()
    again = evaluation.run(config, tmp_path, quiet())
    assert again == result
    assert (tmp_path / "metrics.jsonl").read_text() == (workdir / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_loaded_classifier_is_the_trained_one(finished):
    workdir, _ = finished
    model = manifold.load(workdir)
    images, _ = datasets.load(**run_config()["dataset"])
    hidden = network_module.hidden_features(model, images, batch_size=4)
    assert hidden.shape == (12, 32)
    assert hidden.min() >= 0
    logits = hidden @ np.asarray(model.detector.output.kernel[...])[:, 0]
    logits += np.asarray(model.detector.output.bias[...])
    # As many test images are called clean as the run has counted with the weights it had just trained.
    correct = np.array([score for score, right in zip(logits, was_right(images), strict=True) if right])
    _, test = manifold.split_by_image(len(correct), run_config()["manifold"]["test_share"], seed=0)
    assert int((correct[test] <= 0).sum()) == finished[1].clean.successes


def was_right(images):
    _, labels = datasets.load(**run_config()["dataset"])
    classifier = models.create("efficientnet_lite0", pretrained=True)
    logits = jax.jit(lambda network, x: network(x))(classifier, images)
    return np.asarray(logits).argmax(-1) == labels


def test_load_says_where_nothing_is(tmp_path):
    with pytest.raises(InputError, match="no trained manifold classifier"):
        manifold.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifold": {}}, "config.manifold must have the fields"),
        ({"manifolds": 1}, "unknown config field 'manifolds'"),
        ({"attacks": {"FGSM": {"name": "fgsm", "epsilon": 0.1}}}, "storage 'uint8'"),
    ],
)
def test_bad_configurations(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        evaluation.run({**run_config(), **change}, tmp_path, quiet())


@pytest.mark.parametrize(("field", "value"), [("dropout", 1.0), ("steps", 0), ("hidden", 1.5)])
def test_bad_options(field, value):
    config = run_config()
    config["manifold"][field] = value
    with pytest.raises(InputError, match=rf"config\.manifold\.{field}"):
        evaluation.check(config)


@pytest.mark.slow
def test_figure1_can_show_its_hidden_layer(finished, tmp_path):
    config = cli.plain(figure_configuration.get_config("figure1"))
    config["dataset"].update({"size": 64, "limit": 8})
    config["attacks"] = run_config()["attacks"]
    config["defenses"] = run_config()["defenses"]
    config["detector"] = str(finished[0])
    figures.make(config, tmp_path)
    assert json.loads((tmp_path / "figure1.json").read_text())["features"] == 32
