"""Crops of images in folders: where they are cut, what they are called, and what is left out."""

import numpy as np
import pytest
from PIL import Image

from srdef import datasets
from srdef.datasets.crops import of_same_images, source_image
from srdef.errors import InputError, SrdefWarning


def paint(path, width, height):
    """Save an image of noise and return its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def load(*paths, side=16, **options):
    return datasets.load("crops", paths=[str(path) for path in paths], side=side, **options)


def test_crops_are_pieces_of_their_image(tmp_path):
    pixels = paint(tmp_path / "photos/sub/a.png", 48, 36)  # three by two, as 32 + 16/4 is 36
    dataset = load(tmp_path / "photos", per_image=9)
    assert dataset.names == tuple(f"photos/sub/a.png#{i}" for i in range(6))
    assert {source_image(name) for name in dataset.names} == {"photos/sub/a.png"}
    assert dataset.labels.tolist() == [-1] * 6
    assert dataset.num_classes == 1000
    corners = [(left, top) for top in (0, 20) for left in (0, 16, 32)]
    wanted = [pixels[top : top + 16, left : left + 16] for left, top in corners]
    np.testing.assert_array_equal(np.rint(dataset.images * 255).astype(np.uint8), wanted)


@pytest.mark.parametrize(
    ("length", "starts"), [(16, [0]), (20, [2]), (21, [0, 5]), (36, [0, 20]), (37, [0, 10, 21])]
)
def test_a_row_leaves_out_at_most_a_quarter_of_a_side(tmp_path, length, starts):
    pixels = paint(tmp_path / "a.png", length, 16)
    dataset = load(tmp_path, per_image=9)
    found = np.rint(dataset.images * 255).astype(np.uint8)
    np.testing.assert_array_equal(found, [pixels[:, start : start + 16] for start in starts])


@pytest.mark.parametrize(("per_image", "chosen"), [(1, [2]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_at_most_so_many_of_an_image(tmp_path, per_image, chosen):
    paint(tmp_path / "a.png", 32, 32)
    every, some = load(tmp_path, per_image=4), load(tmp_path, per_image=per_image)
    np.testing.assert_array_equal(some.images, every.images[chosen])


def test_folders_their_strides_and_small_images(tmp_path):
    for i in range(5):
        paint(tmp_path / f"one/{i}.png", 16, 16)
    paint(tmp_path / "two/large.png", 16, 17)
    paint(tmp_path / "two/small.png", 40, 15)
    with pytest.warns(SrdefWarning, match=r"two: 1 image left out \(small\.png\): a side is short") as found:
        dataset = load(tmp_path / "one", tmp_path / "two", strides=[2, 1])
    assert [warning.filename for warning in found] == [__file__]  # and no line of srdef
    assert dataset.names == ("one/0.png#0", "one/2.png#0", "one/4.png#0", "two/large.png#0")
    assert load(tmp_path / "one", num_classes=7).num_classes == 7


def test_what_is_no_crop_is_its_own_source():
    assert [source_image(name) for name in ("a#1.png", "a.png", "b/a#1.png#12")] == [
        "a#1.png",
        "a.png",
        "b/a#1.png",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"side": bad}, "'crops': side must be an integer of at least 1") for bad in (0, "16", None)),
        ({"side": True}, "'crops': side must be a number, not True"),
        *(({"per_image": bad}, "'crops': per_image must be an integer") for bad in (0, 1.5, None)),
        ({"num_classes": None}, "'crops': num_classes must be an integer of at least 1, not None"),
        *(({"strides": bad}, "strides must be a list of whole numbers") for bad in (2, "2", (1.5,))),
        ({"strides": [1, 2]}, "strides must be 1 numbers of at least 1, one for each folder"),
        ({"strides": [0]}, "strides must be 1 numbers of at least 1"),
        ({"side": 99}, "no image in .* has 99x99 pixels"),
    ],
)
@pytest.mark.filterwarnings("ignore:folder")
def test_bad_options(tmp_path, options, message):
    paint(tmp_path / "a.png", 16, 16)
    with pytest.raises(InputError, match=message):
        load(tmp_path, **options)


def test_bad_folders(tmp_path):
    for name in ("one/photos", "two/photos"):
        paint(tmp_path / name / "a.png", 16, 16)
    with pytest.raises(InputError, match="two folders are called 'photos'"):
        load(tmp_path / "one/photos", tmp_path / "two/photos")
    with pytest.raises(InputError, match="one lies in the other, so that images would come twice"):
        load(tmp_path / "one", tmp_path / "one/photos")
    for bad in (5, (5,)):
        with pytest.raises(InputError, match="paths must be a list of folders, not"):
            datasets.load("crops", paths=bad, side=16)
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "three")
    (tmp_path / "empty/below").mkdir(parents=True)
    (tmp_path / "empty/notes.txt").write_text("no image")
    for folders in (("one", "empty"), ("empty",)):
        with pytest.raises(InputError, match=r"'crops': folder .*/empty has no images \(\.jpg, \.jpeg, "):
            load(*(tmp_path / folder for folder in folders))
    with pytest.raises(InputError, match="paths must be a list of folders, not 'here'"):
        datasets.load("crops", paths="here", side=16)


def test_which_names_are_of_the_same_images():
    """Of crops, of the files that they were cut from, and below another folder; not of parts of names."""
    names = ["a/1.png#0", "a/1.png#7", "1.png", "a/1.png", "x/a/1.png", "b/1.png", "11.png", "a/2.png#0"]
    assert of_same_images(names, ["a/1.png#0"]) == [True, True, True, True, True, False, False, False]
    assert of_same_images(["1.png", "2.png", "a/1.png"], ["1.png"]) == [True, False, True]
    assert of_same_images(["1"], []) == [False]
