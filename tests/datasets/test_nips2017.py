"""The layout of the NIPS 2017 competition."""

import numpy as np
import pytest
from PIL import Image

from srdef import datasets
from srdef.errors import InputError


@pytest.fixture
def made(tmp_path):
    """Three images; the CSV has the columns of the original, and more than are read."""
    (tmp_path / "images").mkdir()
    for i, name in enumerate(("f00", "a11", "c22")):
        Image.new("RGB", (12, 12), (i, 0, 0)).save(tmp_path / "images" / f"{name}.png")
    write(tmp_path, "f00,http://x,1\na11,http://y,1000\nc22,http://z,306\n")
    return tmp_path


def write(folder, rows, header="ImageId,URL,TrueLabel"):
    (folder / "images.csv").write_text(f"{header}\n{rows}")


def test_labels_count_from_one_and_rows_give_the_order(made):
    dataset = datasets.load("nips2017", size=12, path=made)
    assert dataset.names == ("f00", "a11", "c22")
    assert dataset.labels.tolist() == [0, 999, 305]
    np.testing.assert_array_equal(np.rint(dataset.images[:, 5, 5, 0] * 255), [0, 1, 2])


def test_every_other_image(made):
    """What another folder with only these images would give, their positions too."""
    dataset = datasets.load("nips2017", size=12, path=made, stride=2)
    assert dataset.names == ("f00", "c22")
    assert dataset.labels.tolist() == [0, 305]
    assert dataset.ids.tolist() == [0, 1]
    (made / "images" / "a11.png").unlink()
    write(made, "f00,http://x,1\nc22,http://z,306\n")
    assert datasets.load("nips2017", size=12, path=made).digest() == dataset.digest()
    with pytest.raises(InputError, match="stride must be an integer of at least 1, not 0"):
        datasets.load("nips2017", size=12, path=made, stride=0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("f00,u,0\na11,u,1\nc22,u,1\n", r"line 2 \(f00\): label 0 is outside \[1, 1000\]"),
        ("f00,u,1001\na11,u,1\nc22,u,1\n", r"line 2 \(f00\): label 1001 is outside \[1, 1000\]"),
        ("f00,u,1\na11,u,x\nc22,u,1\n", r"line 3 \(a11\): label 'x' is not an integer"),
        ("f00,u,1\na11,u,1\n", r"no row for the file images/c22\.png"),
        ("f00,u,1\na11,u,1\nc22,u,1\nd33,u,1\n", r"image d33 has a row but no file images/d33\.png"),
        ("f00,u,1\na11,u,1\nc22,u,1\nf00,u,1\n", r"line 5 \(f00\): this ImageId stands there twice"),
    ],
)
def test_bad_tables(made, rows, message):
    write(made, rows)
    with pytest.raises(InputError, match=message):
        datasets.load("nips2017", size=12, path=made)


def test_missing_pieces(made):
    write(made, "f00,1\n", header="ImageId,Label")
    with pytest.raises(InputError, match="no column 'TrueLabel'; its columns are: ImageId, Label"):
        datasets.load("nips2017", size=12, path=made)
    (made / "images.csv").unlink()
    with pytest.raises(InputError, match=r"has no images\.csv"):
        datasets.load("nips2017", size=12, path=made)
    with pytest.raises(InputError, match="missing a required argument: 'path'"):
        datasets.load("nips2017", size=12)


def test_real_images(nips2017):
    dataset = datasets.load("nips2017", size=299, path=nips2017, limit=3)
    assert dataset.images.shape == (3, 299, 299, 3)
    # 299 is their own size and the default crop is none, so the pixels are those of the files.
    stored = Image.open(nips2017 / "images" / f"{dataset.names[0]}.png").convert("RGB")
    np.testing.assert_array_equal(np.rint(dataset.images[0] * 255), np.asarray(stored))
