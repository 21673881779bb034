"""The manifold experiment: a whole run on a few images."""

import base64
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from toys import in_threads

from configs import figures as figure_configuration
from configs import manifold as configuration
from srdef import datasets, models
from srdef.commands import cli
from srdef.commands import manifold as script
from srdef.detection import experiment as evaluation
from srdef.detection import network as network_module
from srdef.detection import training
from srdef.detection.pairs import split_by_image
from srdef.errors import InputError, SrdefWarning
from srdef.evaluation.progress import Reporter
from srdef.metrics import rate
from srdef.reporting import figure_parts, figures
from srdef.reporting.detection_tables import to_json, to_markdown
from srdef.reporting.page import build
from srdef.reporting.page_images import read_array


def run_config():
    config = configuration.get_config("lite0,samples")
    config.dataset.update({"size": 64, "limit": 12})
    config.batch_size = 4
    config.attacks = ConfigDict({"FGSM-10": {"name": "fgsm", "epsilon": 10 / 255, "storage": "uint8"}})
    config.defenses = ConfigDict({"bicubic ×2": config.defenses["bicubic ×2"]})
    config.manifold.update({"hidden": 32, "steps": 4, "evaluate_every": 2, "pairs_per_batch": 4})
    return cli.plain(config)


def test_answers_of_several_draws_are_not_left_out_silently(tmp_path):
    config = run_config() | {"defenses": {"s": {"name": "shield", "passes": 3}}}
    with pytest.raises(InputError, match=r'config.defenses\["s"\]: passes=3 is for srdef evaluate'):
        evaluation.start(config, tmp_path, False)


def quiet():
    return Reporter(Console(quiet=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("manifold")
    script.main(ConfigDict(run_config()), workdir)
    return workdir, evaluation.run(run_config(), workdir, quiet())


@pytest.mark.slow
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
    assert json.loads(to_json(result))["roc_auc"] == result.auc
    # A later run only reads what the first has left, the scores of defended images too.
    again = quiet()
    assert to_json(evaluation.run(run_config(), workdir, again)) == to_json(result)
    assert again.computed == 0
    assert (workdir / "manifold.md").read_text() == to_markdown(result)
    assert "| bicubic ×2 |" in to_markdown(result)
    assert (workdir / "curves.png").stat().st_size > 10_000
    page = build(workdir)
    assert base64.b64encode((workdir / "curves.png").read_bytes()).decode() in page
    assert f"tested with {result.pairs['test']} pairs" in page


@pytest.mark.slow
def test_no_image_is_both_trained_on_and_tested_with(finished, monkeypatch):
    """What the training is given are the feature maps of two sets of images that have none in common."""
    workdir, _ = finished
    given = {}

    def record(detector, training, testing, *_):
        training.fooled[:, 0] = False  # as if no attack fooled with the first image: it is in no pair
        given.update(train=training, test=testing)
        return detector

    monkeypatch.setattr(evaluation, "train", record)
    result = evaluation.run(run_config(), workdir, quiet())
    split = json.loads((workdir / "images.json").read_text())
    assert not set(split["train"]) & set(split["test"])
    (clean,) = (workdir / "store" / "features").glob("clean-*")
    (adversarial,) = (workdir / "store" / "features").glob("FGSM-10-*")
    clean, adversarial = (read_array(folder / "features", slice(None)) for folder in (clean, adversarial))
    known = {*split["train"], *split["test"]}
    right = [name for name in datasets.load(**run_config()["dataset"]).names if name in known]
    assert len(right) == len(clean)
    for part, names in split.items():
        rows = [right.index(name) for name in names]
        paired = given[part].fooled.any(axis=0)
        assert result.images[part] == (paired.sum() if part == "train" else len(rows))
        np.testing.assert_array_equal(given[part].maps, [clean[rows], adversarial[rows]])


@pytest.mark.slow
def test_the_predicted_class_can_be_the_label(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    source = {"name": "folder", "path": str(tmp_path / "photos"), "size": 64, "labels": "predicted"}
    monkeypatch.setattr(evaluation, "train", lambda detector, *_: detector)
    result = evaluation.run({**run_config(), "dataset": source}, tmp_path, quiet())
    assert result.images == {"train": 3, "test": 1}


@pytest.mark.slow
def test_a_photograph_and_its_copy_are_on_one_side(tmp_path, monkeypatch):
    """Also in a run, and they are one observation of its intervals."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(pixels):
        for name in (f"{i}.png", f"z{i}.bmp"):
            Image.fromarray(image).save(tmp_path / "photos" / name)
    source = {"name": "folder", "path": str(tmp_path / "photos"), "size": 64, "labels": "predicted"}
    monkeypatch.setattr(evaluation, "train", lambda detector, *_: detector)
    with pytest.warns(SrdefWarning, match="5 of 10 source images hold the pixels of others, as z0.bmp those"):
        result = evaluation.run({**run_config(), "dataset": source}, tmp_path, quiet())
    tested = json.loads((tmp_path / "images.json").read_text())["test"]
    assert sorted(tested) == [*tested[:2], *(f"z{name[0]}.bmp" for name in tested[:2])]
    assert result.images == {"train": 6, "test": 4}
    assert result.grouped
    assert "Wilson intervals, of as many independent images as" in to_markdown(result)
    called = result.called_clean["as they are"]["clean"]
    assert (called.total, called.low < called.value or called.high > called.value) == (4, True)


def test_an_attack_that_fools_no_test_image():
    """Its shares and its area are of nothing: null in JSON, a dash in the table."""
    nothing, some = rate(np.zeros(0, bool)), rate(np.array([True, False]))
    row = {"clean": some, "weak": nothing, "strong": some}
    result = evaluation.Result(
        images={"train": 3, "test": 2},
        pairs={"train": 3, "test": 2},
        accuracy=0.5,
        auc=0.5,
        clean=some,
        attacks={"weak": (nothing, float("nan")), "strong": (some, 0.5)},
        called_clean={"as they are": row, "none": {**row, "strong": nothing}},
    )
    numbers = json.loads(to_json(result), parse_constant=pytest.fail)
    weak = numbers["attacks"]["weak"]
    assert weak["roc_auc"] is weak["called_adversarial"]["value"] is None
    assert numbers["attacks"]["strong"]["roc_auc"] == 0.5
    assert "nan" not in to_markdown(result)
    assert "| ROC-AUC | – | 0.500 |" in to_markdown(result)
    assert "| – | – | – |" in to_markdown(result).splitlines()[-3]
    assert "a coin: 50 %" in to_markdown(result)


@pytest.mark.slow
def test_an_unfinished_training_is_not_loaded(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir, ignore=shutil.ignore_patterns("store"))
    config = json.loads((workdir / "config.json").read_text())
    config["manifold"]["steps"] = 6
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"was stopped after 4 of 6 steps: run srdef manifold again"):
        training.load(workdir)


@pytest.mark.slow
def test_another_configuration_takes_the_folder_only_when_it_may(finished, tmp_path):
    """Attacks and training of a run with another defense fit, its tables do not."""
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    config = run_config()
    config["defenses"] = {"JPEG": {"name": "jpeg", "quality": 75}}
    with pytest.raises(InputError, match=r"of another configuration.*replace them by --overwrite"):
        script.main(ConfigDict(config), workdir)
    assert (workdir / "manifold.json").read_bytes() == (finished[0] / "manifold.json").read_bytes()
    script.main(ConfigDict(config), workdir, overwrite=True)
    called = json.loads((workdir / "manifold.json").read_text())["called_clean"]
    assert set(called) == {"as they are", "JPEG"}
    assert (workdir / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()
    # Another training leaves no tables of this one behind, and its checkpoints are not taken for its own.
    config["manifold"] = {**config["manifold"], "hidden": 16}
    with pytest.raises(InputError, match=r"checkpoints in .* are of a training with other .*options"):
        script.main(ConfigDict(config), workdir, overwrite=True)
    assert not list(workdir.glob("manifold.*"))
    with pytest.raises(InputError, match=r"checkpoints in .* are of a training with other options"):
        training.load(workdir)


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
def test_two_processes_share_the_attacks(finished, tmp_path):
    """Threads stand for them; the first goes on alone, and ends with the bytes of one process."""
    in_threads(lambda members: script.main(ConfigDict(run_config()), tmp_path, members=members), 2)
    names = ("manifold.json", "images.json", "metrics.jsonl")
    assert [(tmp_path / name).read_bytes() for name in names] == [
        (finished[0] / name).read_bytes() for name in names
    ]


@pytest.mark.slow
def test_a_loaded_classifier_is_the_trained_one(finished):
    workdir, _ = finished
    model = training.load(workdir)
    images, _ = datasets.load(**run_config()["dataset"])
    hidden = network_module.hidden_features(model, images, batch_size=4)
    assert hidden.shape == (12, 32)
    assert hidden.min() >= 0
    logits = hidden @ np.asarray(model.detector.output.kernel[...])[:, 0]
    logits += np.asarray(model.detector.output.bias[...])
    # As many test images are called clean as the run has counted with the weights it had just trained.
    correct = np.array([score for score, right in zip(logits, was_right(images), strict=True) if right])
    names = [str(i) for i in range(len(correct))]
    _, test = split_by_image(names, run_config()["manifold"]["test_share"], seed=0)
    assert int((correct[test] <= 0).sum()) == finished[1].clean.successes


def was_right(images):
    _, labels = datasets.load(**run_config()["dataset"])
    classifier = models.create("efficientnet_lite0", pretrained=True)
    logits = jax.jit(lambda network, x: network(x))(classifier, images)
    return np.asarray(logits).argmax(-1) == labels


def test_load_says_where_nothing_is(tmp_path):
    with pytest.raises(InputError, match="no trained manifold classifier"):
        training.load(tmp_path)


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
    config["dataset"].update({"size": 128, "limit": 12})
    config["attacks"] = run_config()["attacks"]
    config["defenses"] = run_config()["defenses"]
    config["detector"] = str(finished[0])
    figures.make(config, tmp_path)
    numbers = json.loads((tmp_path / "figure1.json").read_text())
    assert numbers["features"] == 32
    trained = json.loads((finished[0] / "images.json").read_text())["train"]
    unseen = [name for name in figure_parts.start(config).dataset.names if name not in trained]
    assert numbers["images"] == len(unseen) >= 2
