"""Cropping on the device beside cropping on the host, and data sets of TensorFlow Datasets."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from srdef.errors import InputError, SrdefWarning
from srdef.training import patches


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)
    photographs = [rng.integers(0, 256, size, np.uint8) for size in ((40, 61, 3), (50, 33, 3), (33, 90, 3))]
    return patches.PatchSource.create(photographs, 8, 3, seed=5)


def test_the_device_crops_what_the_host_crops(source):
    """Byte for byte, all eight orientations and all photographs among them."""
    draws = np.stack([source.draw(index) for index in range(60)])
    assert len({tuple(draw[3:]) for draw in draws}) == 8
    assert set(draws[:, 0]) == {0, 1, 2}
    pool = patches.PhotographsOnDevice.create(source)
    cropped = jax.jit(lambda pool, draws: pool.crop(draws))(pool, draws)
    np.testing.assert_array_equal(cropped, np.stack([source(index) for index in range(60)]))


def test_photographs_are_drawn_by_area(source):
    areas = [image.shape[0] * image.shape[1] for image in source.photographs]
    counts = np.bincount([source.draw(index)[0] for index in range(3000)])
    # Four standard deviations of a binomial share of about a third in 3000.
    np.testing.assert_allclose(counts / 3000, np.array(areas) / sum(areas), atol=4 * np.sqrt(0.22 / 3000))


def test_images_smaller_than_a_patch_are_counted():
    images = [np.zeros(shape, np.uint8) for shape in ((24, 40, 3), (24, 23, 3), (9, 90, 3))]
    with pytest.warns(SrdefWarning, match="2 of 3 training images have a side of less than 24 pixels, and"):
        source = patches.PatchSource.create(images, patch=12, scale=2, seed=0)
    assert len(source.photographs) == 1


def test_short_names():
    assert patches.short_names(["a/Set5", "Set14/", "tfds:div2k"]) == ["Set5", "Set14", "tfds:div2k"]
    assert patches.short_names(["a/5/HR", "/b/14/HR", "a/5/../5/HR", "x"]) == ["5/HR", "14/HR", "5/HR", "x"]
    assert patches.short_names(["/HR", "/a/HR"]) == ["/HR", "a/HR"]
    assert patches.short_names([]) == []


def test_too_many_pixels_for_the_device(source):
    huge = np.lib.stride_tricks.as_strided(np.zeros(3, np.uint8), (1 << 16, 1 << 15, 3), (0, 0, 1))
    with pytest.raises(InputError, match=r"2147483648 pixels .* choose crop='host'"):
        patches.PhotographsOnDevice.create(patches.PatchSource([huge], 8, 3, 0, np.ones(1)))


def test_tfds():
    """DIV2K's high-resolution images by tfds' own mock of the prepared data set."""
    tensorflow_datasets = pytest.importorskip("tensorflow_datasets")
    with tensorflow_datasets.testing.mock_data(num_examples=2):
        found = patches.read_folder("tfds:div2k")
        expected = [record["hr"] for record in tensorflow_datasets.data_source("div2k", split="train")]
    assert [image.dtype for image in found] == [np.uint8, np.uint8]
    for image, record in zip(found, expected, strict=True):
        np.testing.assert_array_equal(image, record)


def test_tfds_held_out(monkeypatch):
    """What a network is measured with is not what it was trained on."""
    read = []

    def builder(*splits):
        info = SimpleNamespace(features=["image"], splits=dict.fromkeys(splits))
        images = {"image": np.zeros((4, 4, 3), np.uint8)}
        source = lambda split: read.append(split) or [images]  # noqa: E731
        return lambda *_: SimpleNamespace(info=info, as_data_source=source)

    for splits in (("train", "validation", "test"), ("test", "train")):
        monkeypatch.setattr(patches, "open_builder", builder(*splits))
        patches.read_folder("tfds:x")
        patches.read_folder("tfds:x", held_out=True)
    assert read == ["train", "validation", "train", "test"]
    monkeypatch.setattr(patches, "open_builder", builder("train"))
    with pytest.raises(InputError, match="tfds:x: has no split validation or test; it has: train"):
        patches.read_folder("tfds:x", held_out=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagenut", "tfds:imagenut: TensorFlow Datasets has no data set of this name"),
        ("ag_news_subset", "has neither hr nor image; it has: "),
        ("div2k", "tfds:div2k: not prepared as array_record.*download_and_prepare"),
    ],
)
def test_bad_data_sets(name, message, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=message):
        patches.read_folder(f"tfds:{name}")
