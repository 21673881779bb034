"""TensorFlow Datasets without TensorFlow, through tfds' own mock of a prepared data set."""

import numpy as np
import pytest

from srdef import datasets
from srdef.errors import InputError
from srdef.training import patches

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")


def test_imagenet2012():
    with tensorflow_datasets.testing.mock_data(num_examples=4):
        dataset = datasets.load("tfds", size=24, offset=1, limit=2)
        again = datasets.load("tfds", size=24, offset=1, limit=2)
    assert dataset.images.shape == (2, 24, 24, 3)
    assert dataset.ids.tolist() == [1, 2]
    assert dataset.names == ("validation/1", "validation/2")
    assert ((dataset.labels >= 0) & (dataset.labels < 1000)).all()
    assert dataset.class_names == datasets.imagenet_class_names()
    assert dataset.images.std() > 0
    np.testing.assert_array_equal(dataset.images, again.images)


@pytest.mark.parametrize(
    ("dataset", "split", "classes"),
    [
        ("imagenet_v2", "test", range(1000)),
        # Tench, springer spaniel, cassette player, chain saw, church, French horn, garbage truck, gas pump,
        # golf ball, parachute: the order is that of the WordNet ids.
        ("imagenette", "validation", (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)),
    ],
)
def test_data_sets_with_classes_of_imagenet(dataset, split, classes):
    """Labels are indices of the 1000 classes, however many of them a data set has."""
    with tensorflow_datasets.testing.mock_data(num_examples=30):
        found = datasets.load("tfds", size=8, dataset=dataset, split=split)
        source = tensorflow_datasets.data_source(dataset, split=split)
        own = [int(record["label"]) for record in source]
    assert found.class_names == datasets.imagenet_class_names()
    assert found.labels.tolist() == [classes[label] for label in own]
    assert len(set(own)) > 5
    if dataset == "imagenette":
        names = [datasets.imagenet_class_names()[i] for i in classes]
        assert [names[0], *names[3:5], *names[6:]] == [
            "tench",
            "chain saw",
            "church",
            "garbage truck",
            "gas pump",
            "golf ball",
            "parachute",
        ]


def test_grey_images_and_other_classes():
    with tensorflow_datasets.testing.mock_data(num_examples=2):
        dataset = datasets.load("tfds", dataset="mnist", split="test", size=28, crop="none")
    np.testing.assert_array_equal(dataset.images[..., 0], dataset.images[..., 2])
    assert dataset.class_names == tuple("0123456789")


def test_not_prepared(tmp_path):
    with pytest.raises(InputError, match=r"imagenet2012: not prepared as array_record.*download_and_prepare"):
        datasets.load("tfds", size=8, data_dir=tmp_path)


def test_no_such_data_set(tmp_path):
    with pytest.raises(InputError, match="imagenut: TensorFlow Datasets has no data set of this name"):
        datasets.load("tfds", size=8, dataset="imagenut", data_dir=tmp_path)


@pytest.mark.parametrize(
    "dataset", ["", "imagenet_v2/", "a/b/c", "imagenet_v2/nothing", "mnist:99.0.0", "huggingface:mnist"]
)
def test_bad_names(tmp_path, dataset):
    """Also those at which TensorFlow Datasets raises something else; its many lines become one."""
    with pytest.raises(InputError, match=r"data set 'tfds', .*TensorFlow Datasets") as error:
        datasets.load("tfds", size=8, dataset=dataset, data_dir=tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"data set tfds:.*TensorFlow Datasets"):
        patches.read_folder(f"tfds:{dataset}")


def test_data_set_without_classes():
    with (
        tensorflow_datasets.testing.mock_data(num_examples=2),
        pytest.raises(InputError, match="needs the features image and label"),
    ):
        datasets.load("tfds", size=8, dataset="div2k", split="train")
