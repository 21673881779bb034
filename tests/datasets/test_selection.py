"""Choosing the images that a classifier gets right, and reading that choice again."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import quickstart
from srdef import datasets
from srdef.commands import configuration, select_images
from srdef.datasets.selection import Selection, select_correct
from srdef.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 3, 100)


def read(positions):
    """A data set whose images hold their own positions."""
    positions = np.asarray(positions)
    return positions[:, None, None, None], LABELS[positions], [f"image {i}" for i in positions]


def predict(images):
    """Right on even positions."""
    positions = images[:, 0, 0, 0]
    return np.where(positions % 2 == 0, LABELS[positions], LABELS[positions] + 1)


def select(count, seed=0, batch_size=7):
    return select_correct(predict, read, 100, count=count, seed=seed, batch_size=batch_size)


def test_only_correct_images_in_the_order_of_drawing():
    tried, positions, names, labels = select(20)
    order = np.random.default_rng(0).permutation(100)
    expected = [i for i in order if i % 2 == 0][:20]
    assert positions == expected
    assert order[tried - 1] == expected[-1]
    assert names == [f"image {i}" for i in expected]
    assert labels == LABELS[expected].tolist()


def test_the_choice_depends_on_the_seed_alone():
    whole = select(30)
    assert select(30, batch_size=1) == whole
    assert select(30, batch_size=100) == whole
    assert select(10)[1] == whole[1][:10]
    assert select(30, seed=1)[1] != whole[1]


def test_too_few_are_right():
    assert len(select(50)[1]) == 50
    with pytest.raises(InputError, match="only 50 of the 100 images are classified correctly, 51 are wanted"):
        select(51)
    with pytest.raises(InputError, match="count must be an integer of at least 1"):
        select(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight photographs that EfficientNet-Lite0 gets right at 128 pixels, by the script."""
    path = tmp_path_factory.mktemp("selection") / "folder" / "lite0.json"
    command = [sys.executable, "-m", "experiments.select_images", "--config=configs/quickstart.py"]
    options = ["--config.dataset.size=128", "--count=8", f"--selection={path}"]
    root = Path(__file__).parents[2]
    process = subprocess.run([*command, *options], cwd=root, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "8 of the" in process.stdout
    return path


def test_the_script_and_loading(made):
    selection = Selection.read(made)
    assert len(selection.positions) == 8
    assert 8 <= selection.tried <= 12
    dataset = datasets.load("imagenet_samples", size=128, selection=made)
    whole = datasets.load("imagenet_samples", size=128)
    np.testing.assert_array_equal(dataset.images, whole.images[selection.positions])
    assert dataset.ids.tolist() == selection.positions
    assert dataset.labels.tolist() == selection.labels
    assert list(dataset.names) == selection.names
    part = datasets.load("imagenet_samples", size=128, selection=made, offset=2, limit=3)
    assert part.names == dataset.names[2:5]


def test_the_size_of_batches_may_be_left_open():
    config = configuration.plain(quickstart.get_config())
    config["batch_size"] = "auto"
    config["dataset"]["size"] = 64
    assert len(select_images.select(config, 1).positions) == 1


def test_a_folder_is_no_file_to_write(tmp_path):
    options = argparse.Namespace(config={}, count=1, selection=str(tmp_path))
    with pytest.raises(InputError, match="is a folder; say which file to write"):
        select_images.run(options)


@pytest.mark.parametrize("place", ["file/x.json", "file/folder/x.json", f"{'x' * 300}.json"])
def test_a_file_that_cannot_be_written_is_named_before_the_work(tmp_path, place):
    """The configuration would fail at its first field."""
    (tmp_path / "file").write_text("")
    options = argparse.Namespace(config={}, count=1, selection=str(tmp_path / place))
    with pytest.raises(InputError, match=r"cannot write .*\.json \((Not a directory|File name too long)\)"):
        select_images.run(options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_list_below_the_home_folder(tmp_path, monkeypatch):
    """As it is read: a shell leaves the ~ in --selection=~/x.json."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(
        select_images, "select", lambda *_: Selection("d", 1, "c", "n", "w", 0, 1, [0], ["a"], [0])
    )
    select_images.run(argparse.Namespace(config={}, count=1, selection="~/new/x.json"))
    assert Selection.read("~/new/x.json").names == ["a"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 96}, "made with size 128, not 96"),
        ({"crop": "none"}, "made with crop 'center', not 'none'"),
        ({"offset": 8}, "offset 8 is outside"),
        ({"selection": "none.json"}, r"none\.json: cannot be read"),
    ],
)
def test_a_choice_made_otherwise(made, options, message):
    with pytest.raises(InputError, match=message):
        datasets.load("imagenet_samples", **{"size": 128, "selection": made, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["names"].__setitem__(0, "other"), "made of other images: 'other' is now 'imagenet_"),
        (
            lambda c: c["labels"].__setitem__(3, 7),
            r"made of other images: 'imagenet_.*' had label 7, now \d+",
        ),
        (lambda c: c["positions"].__setitem__(0, 20), "image 20 of a data set with 20 images"),
        (lambda c: c["positions"].__setitem__(0, -1), "image -1 of a data set with 20 images"),
        (lambda c: c["positions"].__setitem__(0, "1"), "its positions must be a list of whole numbers"),
        (lambda c: c["positions"].__setitem__(0, 1.0), "its positions must be a list of whole numbers"),
        (lambda c: c["positions"].__setitem__(0, True), "its positions must be a list of whole numbers"),
        (lambda c: c["positions"].__setitem__(0, c["positions"][1]), "a position stands there twice"),
        (lambda c: c.update(positions=8), "its positions must be a list of whole numbers"),
        (lambda c: c.update(names="8 images"), "its names must be a list of strings"),
        (lambda c: c["labels"].__setitem__(0, None), "its labels must be a list of whole numbers"),
        (lambda c: c["labels"].pop(), "differ in number"),
        (lambda c: c.pop("seed"), "not a list that experiments.select_images wrote"),
        (lambda c: c.update(dataset="nips2017"), "made with dataset 'nips2017', not 'imagenet_samples'"),
    ],
)
def test_a_changed_file(made, tmp_path, change, message):
    content = json.loads(made.read_text())
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"selection .*changed\.json: .*{message}"):
        datasets.load("imagenet_samples", size=128, selection=path)


def test_images_of_another_tfds_data_set(tmp_path):
    """Both call their images by split and position; what they show differs, and so do the labels."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    path = tmp_path / "mine.json"
    options = {"split": "test", "size": 8}
    with tensorflow_datasets.testing.mock_data(num_examples=5):
        own = datasets.load("tfds", dataset="cifar10", **options)
        Selection(
            dataset="tfds",
            size=8,
            crop="center",
            classifier="",
            weights="",
            seed=0,
            tried=3,
            positions=[4, 0, 2],
            names=[own.names[i] for i in (4, 0, 2)],
            labels=own.labels[[4, 0, 2]].tolist(),
        ).save(path)
        again = datasets.load("tfds", dataset="cifar10", selection=path, **options)
        np.testing.assert_array_equal(again.images, own.images[[4, 0, 2]])
        with pytest.raises(InputError, match=r"mine\.json: made of other images: 'test/4' had label \d"):
            datasets.load("tfds", dataset="imagenet_v2", selection=path, **options)
