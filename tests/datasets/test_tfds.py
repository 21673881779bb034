"""TensorFlow Datasets without TensorFlow, through tfds' own mock of a prepared data set."""

from types import SimpleNamespace

import numpy as np
import pytest

from srdef import datasets
from srdef.datasets import base, tfds
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


def test_images_that_are_read_when_they_are_needed(monkeypatch):
    monkeypatch.setattr(base, "LARGEST_IN_MEMORY", 0)
    with tensorflow_datasets.testing.mock_data(num_examples=4):
        expected = datasets.load("tfds", size=24, limit=3)
        found = datasets.load("tfds", size=24, limit=3, keep=False)
        assert isinstance(found.pixels, datasets.ImagesOnDisk)
        np.testing.assert_array_equal(found.images, expected.images)
    assert (found.names, found.labels.tolist()) == (expected.names, expected.labels.tolist())


def test_grey_images_and_other_classes():
    with tensorflow_datasets.testing.mock_data(num_examples=2):
        dataset = datasets.load("tfds", dataset="mnist", split="test", size=28, crop="none")
    np.testing.assert_array_equal(dataset.images[..., 0], dataset.images[..., 2])
    assert dataset.class_names == tuple("0123456789")


class Prepared:
    """What tfds gives for a prepared data set with these records and five classes."""

    def __init__(self, *records):
        self.records = [{"image": image, "label": label} for image, label in records]
        features = {"image": None, "label": SimpleNamespace(names=list("abcde"))}
        self.info = SimpleNamespace(splits=["train", "test"], features=features)

    def as_data_source(self, split):
        return self.records


def load_records(monkeypatch, *records):
    monkeypatch.setattr(tfds, "open_builder", lambda *_: Prepared(*records))
    return datasets.load("tfds", dataset="own", split="test", size=8, crop="none")


@pytest.mark.parametrize(("label", "word"), [(-1, r"-1 \(unlabelled\)"), (5, "5"), (-2, "-2")])
def test_labels_that_are_none_are_named(monkeypatch, label, word):
    """-1 stands in the splits that have no labels, and must not become the last class."""
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match=rf"own: example test/1 has the label {word}, .* outside \[0, 4\]"):
        load_records(monkeypatch, (image, 4), (image, np.int64(label)))


def test_all_kinds_of_images_are_read_as_from_a_folder(monkeypatch):
    deep = np.full((8, 8, 1), 0x80FF, np.uint16)
    clear = np.zeros((8, 8, 4), np.uint8)
    found = load_records(monkeypatch, (deep, 0), (clear, 1), (np.full((8, 8, 1), 7, np.uint8), 2))
    np.testing.assert_array_equal(np.rint(255 * found.images[:, 3, 4]), [[128] * 3, [255] * 3, [7] * 3])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 5), np.uint8), r"1 to 4 channels, not \(8, 8, 5\)"),
        (np.zeros((8, 8, 3), np.float32), "pixels of the type float32"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"not \(2, 8, 8, 3\)"),
    ],
)
def test_images_that_cannot_be_read_are_named(monkeypatch, image, message):
    with pytest.raises(InputError, match=f"data set 'tfds', own: example test/0: .*{message}"):
        load_records(monkeypatch, (image, 0))
    monkeypatch.setattr(patches, "open_builder", lambda *_: Prepared((image, 0)))
    with pytest.raises(InputError, match=f"data set tfds:own: example 0: .*{message}"):
        patches.read_folder("tfds:own")


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
