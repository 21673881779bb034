"""Arrays in memory and in .npz and .npy files: what is read, and one line for what cannot be."""

from pathlib import Path

import numpy as np
import pytest

from srdef import datasets
from srdef.errors import InputError

LEVELS = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)
LABELS = np.array([3, 0, 1, 2, 1])


def sized(size=16, limit=5):
    """A data set function whose parameters are never given."""
    return np.zeros((limit, size, size, 3), np.uint8), np.zeros(limit, int)


def test_a_function_whose_parameter_every_data_set_has_is_refused():
    name = f"{Path(__file__)}:sized"
    with pytest.raises(InputError, match=r"its parameter .size. is never given, .*; rename it"):
        datasets.load(name, size=8)


def test_levels_in_memory():
    dataset = datasets.load("arrays", images=LEVELS, labels=LABELS, offset=1, limit=3)
    np.testing.assert_array_equal(dataset.images, LEVELS[1:4] / np.float32(255))
    assert dataset.images.dtype == np.float32
    assert dataset.labels.tolist() == [0, 1, 2]
    assert dataset.ids.tolist() == [1, 2, 3]
    assert dataset.names == ("1", "2", "3")
    assert dataset.num_classes == 4
    assert dataset.least_classes
    assert datasets.load("arrays", images=LEVELS, labels=LABELS, num_classes=10).num_classes == 10


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_taken_as_they_are(dtype):
    images = np.random.default_rng(1).random((2, 4, 4, 3)).astype(dtype)
    dataset = datasets.load("arrays", images=images, labels=[0, 1])
    np.testing.assert_array_equal(dataset.images, images.astype(np.float32))


def test_other_integers_channels_first_gray_and_columns_of_labels():
    """What Keras (int64 after arithmetic, labels (N, 1)), PyTorch (channels first) and scikit-learn have."""
    integers = datasets.load("arrays", images=LEVELS.astype(np.int64), labels=LABELS[:, None])
    np.testing.assert_array_equal(integers.images, LEVELS / np.float32(255))
    first = datasets.load("arrays", images=np.moveaxis(LEVELS, -1, 1), labels=LABELS, channels_first=True)
    np.testing.assert_array_equal(first.images, integers.images)
    gray = datasets.load("arrays", images=LEVELS[..., 0], labels=LABELS)
    np.testing.assert_array_equal(gray.images, integers.images[..., :1])


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kind", ["levels", "floats"])
def test_resized_channel_by_channel(channels, kind):
    """As Pillow resizes a gray image of 8 bits."""
    from PIL import Image

    images = np.resize(LEVELS // 2 + 64, (2, 12, 10, channels))  # so that 8 bits clip nothing on the way
    given = images if kind == "levels" else images / np.float32(255)
    found = datasets.load("arrays", images=given, labels=[0, 1], size=8).images
    assert found.shape == (2, 8, 8, channels)
    for channel in range(channels):
        gray = Image.fromarray(images[1, ..., channel])
        expected = np.asarray(gray.resize((8, 8), Image.Resampling.BICUBIC)) / 255
        # Floats are not rounded to levels, as 8 bits are after each of the two passes.
        tolerance = 1e-6 if kind == "levels" else 2 / 255
        np.testing.assert_allclose(found[1, ..., channel], expected, rtol=0, atol=tolerance)
    assert found.min() >= 0
    assert found.max() <= 1


def test_npz_files_by_their_usual_names_and_by_others(tmp_path):
    file = tmp_path / "data.npz"
    np.savez(file, x_train=LEVELS[::-1], y_train=LABELS[::-1], x_test=LEVELS, y_test=LABELS)
    dataset = datasets.load("arrays", path=file)
    np.testing.assert_array_equal(dataset.images, LEVELS / np.float32(255))
    assert dataset.labels.tolist() == LABELS.tolist()
    train = datasets.load("arrays", path=str(file), image_field="x_train", label_field="y_train")
    assert train.labels.tolist() == LABELS[::-1].tolist()
    np.savez(file, LEVELS, LABELS)
    assert datasets.load("arrays", path=file).digest() == dataset.digest()


def test_npy_files_with_labels_beside_them(tmp_path):
    np.save(tmp_path / "mine.npy", LEVELS)
    np.save(tmp_path / "labels.npy", LABELS)
    assert datasets.load("arrays", path=tmp_path / "mine.npy").labels.tolist() == LABELS.tolist()
    np.save(tmp_path / "mine_labels.npy", LABELS[::-1])  # the closer name
    assert datasets.load("arrays", path=tmp_path / "mine.npy").labels.tolist() == LABELS[::-1].tolist()
    found = datasets.load("arrays", path=tmp_path / "mine.npy", labels=tmp_path / "labels.npy")
    assert found.labels.tolist() == LABELS.tolist()


def test_predicted_labels_are_left_open():
    assert datasets.load("arrays", images=LEVELS, labels="predicted").labels.tolist() == [-1] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either path or images"),
        ({"images": LEVELS}, "there are no labels"),
        ({"images": LEVELS, "labels": LABELS[:3]}, r"5 images need as many labels, not an array of shape"),
        ({"images": LEVELS, "labels": LABELS * 1.0}, "labels must be integers, not float64"),
        ({"images": LEVELS, "labels": LABELS - 1}, r"label -1 of image 1 is outside"),
        ({"images": LEVELS, "labels": LABELS, "num_classes": 3}, r"label 3 of image 0 is outside \[0, 2\]"),
        ({"images": LEVELS[0, 0], "labels": LABELS}, r"must have the shape .*, not \(10, 3\)"),
        ({"images": LEVELS[:0], "labels": LABELS[:0]}, r"must have the shape .*, not \(0, 12, 10, 3\)"),
        ({"images": [[1], [1, 2]], "labels": [0, 1]}, "list is no array of numbers"),
        ({"images": LEVELS.astype(str), "labels": LABELS}, "images must be numbers, not <U"),
        ({"images": LEVELS * 1.0, "labels": LABELS}, r"image 0 has values from 0 to 25\d; .*divide by 255"),
        ({"images": LEVELS / 255 - 0.5, "labels": LABELS}, r"image 0 has values from -0.5 .* \[0, 1\]$"),
        ({"images": LEVELS * np.nan, "labels": LABELS}, "image 0 has values from nan"),
        ({"images": LEVELS.astype(int) * 257, "labels": LABELS}, r"int64 must lie in \[0, 255\]"),
        ({"images": np.moveaxis(LEVELS, -1, 1), "labels": LABELS}, "say channels_first=True"),
    ],
)
def test_bad_arrays(options, message):
    with pytest.raises(InputError, match=message):
        datasets.load("arrays", **options)


def write(path, content):
    path.write_bytes(content)
    return path


def test_bad_files(tmp_path):
    np.savez(tmp_path / "whole.npz", images=LEVELS, labels=LABELS)
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "alone.npy", LEVELS)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    array = (tmp_path / "alone.npy").read_bytes()
    for path, options, message in (
        (tmp_path / "none.npz", {}, "cannot be read .No such file"),
        (tmp_path, {}, "arrays are read from .npz and .npy files"),
        (tmp_path / "alone.npy", {}, r"no labels beside it \(alone_labels.npy or labels.npy\)"),
        (tmp_path / "alone.npy", {"label_field": "y"}, "an .npy file has no fields"),
        (tmp_path / "objects.npy", {"labels": "predicted"}, "it holds Python objects"),
        (
            tmp_path / "whole.npz",
            {"image_field": "z"},
            "no field 'z'; it has: images, labels",
        ),
        (write(tmp_path / "cut.npz", whole[:-100]), {}, "it may be damaged"),
        (write(tmp_path / "empty.npz", b""), {}, "it may be damaged"),
        (write(tmp_path / "text.npz", b"PK\3\4 but no more"), {}, "it may be damaged"),
        (write(tmp_path / "cut.npy", array[:-9]), {"labels": "predicted"}, "it may be damaged"),
    ):
        with pytest.raises(InputError, match=message) as error:
            datasets.load("arrays", path=path, **options)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    # A flipped byte of the pixels fails the check sum of the archive.
    damaged = bytearray(whole)
    damaged[300] ^= 255
    with pytest.raises(InputError, match="it may be damaged"):
        datasets.load("arrays", path=write(tmp_path / "damaged.npz", bytes(damaged)))


def test_labels_alone_do_not_say_how_many_classes_there_are():
    """Some images of a data set need not have its last class."""
    dataset = datasets.load("arrays", images=LEVELS, labels=LABELS)
    fitted = dataset.of_model(10, "mine", "net")
    assert (fitted.num_classes, fitted.least_classes) == (10, False)
    assert dataset.of_model(4, "mine", "net").num_classes == 4
    with pytest.raises(InputError, match=r"^data set 'mine' has at least 4 classes, model 'net' has 3$"):
        dataset.of_model(3, "mine", "net")
    told = datasets.load("arrays", images=LEVELS, labels=LABELS, num_classes=4)
    for classes in (3, 5):
        with pytest.raises(InputError, match=f"^data set 'mine' has 4 classes, model 'net' has {classes}$"):
            told.of_model(classes, "mine", "net")
