"""The manifold classifier: its data, its optimiser, and a whole run on a few images."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from sklearn.metrics import roc_auc_score

from configs import figures as figure_configuration
from configs import manifold as configuration
from experiments import cli
from experiments import manifold as script
from srdef import datasets, models
from srdef.analysis import figures
from srdef.errors import InputError
from srdef.evaluation import manifold as evaluation
from srdef.evaluation.metrics import roc_auc
from srdef.evaluation.protocol import Reporter
from srdef.models import manifold as network_module
from srdef.training import manifold


def small_pairs(count=12, seed=0):
    """Feature maps whose attacked versions differ in their mean."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(count, 2, 2, 192)).astype(np.float32)
    attacked = np.stack([clean + 0.5, clean - 0.5]).astype(np.float32)
    return manifold.Pairs(clean, attacked, rng.uniform(size=(2, count)) < 0.8)


@pytest.fixture(scope="module")
def options():
    return {
        "test_share": 0.3, "blocks": 2, "hidden": 16, "dropout": 0.5, "learning_rate": 1e-3,
        "top_factor": 0.1, "pairs_per_batch": 4, "steps": 6, "evaluate_every": 2,
    }  # fmt: skip


def test_roc_auc_equals_scikit_learn():
    rng = np.random.default_rng(0)
    positive = rng.uniform(size=200) < 0.3
    scores = np.round(rng.normal(size=200) + positive, 1)  # with ties
    assert roc_auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert np.isnan(roc_auc(scores, np.zeros(200, bool)))


@pytest.mark.parametrize(("count", "share"), [(20, 0.3), (2, 0.01), (3, 0.99)])
def test_split_is_by_image_and_leaves_something_on_both_sides(count, share):
    train, test = manifold.split_by_image(count, share, seed=1)
    assert sorted([*train, *test]) == list(range(count))
    assert len(train) >= 1
    assert len(test) >= 1
    np.testing.assert_array_equal(train, manifold.split_by_image(count, share, seed=1)[0])


def test_split_refuses_what_cannot_be_split():
    with pytest.raises(InputError, match="cannot split 1 images"):
        manifold.split_by_image(1, 0.5, 0)


def test_an_epoch_holds_every_pair_once():
    pairs = small_pairs()
    total, size = int(pairs.fooled.sum()), 3
    wanted = sorted(
        (clean.tobytes(), attacked.tobytes())
        for attack, fooled in zip(pairs.attacked, pairs.fooled, strict=True)
        for clean, attacked in zip(pairs.clean[fooled], attack[fooled], strict=True)
    )
    batches = [pairs.batch(i, size, seed=0) for i in range(-(-2 * total // size))]
    drawn = [
        (clean.tobytes(), attacked.tobytes())
        for batch in batches
        for clean, attacked in zip(batch[:size], batch[size:], strict=True)
    ]
    assert sorted(drawn[:total]) == wanted
    assert sorted(drawn[total : 2 * total]) == wanted
    assert drawn[:total] != drawn[total : 2 * total]


@pytest.fixture(scope="module")
def network():
    return models.create("efficientnet_lite0", num_classes=5)


def test_the_frozen_part_and_the_top_are_the_whole_network(network):
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def both(network, images):
        endpoint, top = network_module.cut(network, 2)
        return top(network.endpoints(images)[endpoint]), network.features(images)

    assert network_module.cut(network, 2)[0] == "block13"
    ours, whole = both(network, images)
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_networks_whose_top_is_not_known():
    with pytest.raises(InputError, match="SqueezeNet"):
        network_module.cut(models.create("squeezenet", num_classes=5), 2)


def test_top_is_trained_with_a_tenth_of_the_rate_and_nothing_below_it(network, options, tmp_path):
    """Adam's first step moves every parameter by its learning rate."""
    model = manifold.create(network, options, seed=0)
    before = nnx.to_pure_dict(nnx.state(model.detector, nnx.Param))
    frozen = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(network)))
    pairs = small_pairs()
    trained = manifold.train(
        model.detector, pairs, pairs, {**options, "steps": 1, "dropout": 0.1}, 0, tmp_path
    )
    after = nnx.to_pure_dict(nnx.state(trained, nnx.Param))
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), after, before)
    # Adam's epsilon makes the step a little shorter where gradients are tiny; the largest counts.
    top = max(jax.tree.leaves(moved["top"]))
    assert top == pytest.approx(1e-4, rel=1e-2)
    for name in ("norm", "dense", "output"):
        assert max(jax.tree.leaves(moved[name])) == pytest.approx(1e-3, rel=1e-2)
    # The network whose lower blocks gave the feature maps is as it was, its batch statistics too.
    jax.tree.map(np.testing.assert_array_equal, frozen, nnx.to_pure_dict(nnx.state(network)))


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
