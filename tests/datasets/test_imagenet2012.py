"""ImageNet's validation set in both layouts, with files made here."""

import numpy as np
import pytest
from PIL import Image

from srdef import datasets
from srdef.datasets import base
from srdef.errors import InputError

# Name: WordNet id and class, in the order of classes of every published classifier.
FILES = {
    "ILSVRC2012_val_00000001.JPEG": ("n01751748", 65),  # sea snake, which is what the real one shows
    "ILSVRC2012_val_00000002.JPEG": ("n09193705", 970),
    "ILSVRC2012_val_00000003.JPEG": ("n02105855", 230),
    "ILSVRC2012_val_00000293.JPEG": ("n01440764", 0),
    "ILSVRC2012_val_00050000.JPEG": ("n15075141", 999),
}


@pytest.fixture
def flat(tmp_path, rng):
    root = tmp_path / "val"
    root.mkdir()
    for name in reversed(FILES):
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name, quality=90)
    lines = [f"{name} {index}" for name, (_, index) in reversed(FILES.items())]
    (root / "val.txt").write_text("\n".join([*lines, "ILSVRC2012_val_00000777.JPEG 3", ""]))
    return root


@pytest.fixture
def by_class(tmp_path, flat):
    root = tmp_path / "classes"
    for name, (wordnet_id, _) in FILES.items():
        (root / wordnet_id).mkdir(parents=True)
        (root / wordnet_id / name).write_bytes((flat / name).read_bytes())
    return root


def test_both_layouts_are_the_same_data_set(flat, by_class, monkeypatch):
    found = datasets.load("imagenet2012", path=flat, size=16)
    assert found.names == tuple(FILES)
    assert found.labels.tolist() == [index for _, index in FILES.values()]
    assert found.images.shape == (5, 16, 16, 3)
    assert found.class_names == datasets.imagenet_class_names()
    assert found.digest() == datasets.load("imagenet2012", path=by_class, size=16).digest()
    # As photographs: the centre square.
    folder = datasets.load("folder", path=by_class, size=16)
    order = [folder.names.index(f"{wordnet_id}/{name}") for name, (wordnet_id, _) in FILES.items()]
    np.testing.assert_array_equal(found.images, folder.images[order])
    # And read when they are needed.
    monkeypatch.setattr(base, "LARGEST_IN_MEMORY", 0)
    for root in (flat, by_class):
        lazy = datasets.load("imagenet2012", path=root, size=16, keep=False)
        assert isinstance(lazy.pixels, datasets.ImagesOnDisk)
        assert lazy.names == found.names
        assert lazy.labels.tolist() == found.labels.tolist()
        np.testing.assert_array_equal(lazy.images, found.images)


def test_where_the_labels_may_lie(flat, tmp_path):
    expected = datasets.load("imagenet2012", path=flat, size=8).labels.tolist()
    text = (flat / "val.txt").read_text()
    (flat / "val.txt").write_bytes(
        b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    )  # as some editors do
    assert datasets.load("imagenet2012", path=flat, size=8).labels.tolist() == expected
    (flat / "val.txt").rename(tmp_path / "val.txt")
    assert datasets.load("imagenet2012", path=flat, size=8).labels.tolist() == expected
    (tmp_path / "val.txt").rename(tmp_path / "mine.txt")
    found = datasets.load("imagenet2012", path=flat, labels=tmp_path / "mine.txt", size=8)
    assert found.labels.tolist() == expected
    with pytest.raises(InputError, match=r"no file .*val/val\.txt or .*/val\.txt with a line NAME LABEL"):
        datasets.load("imagenet2012", path=flat, size=8)
    with pytest.raises(InputError, match=r"no file .*/val/other\.txt or other\.txt with a line"):
        datasets.load("imagenet2012", path=flat, labels="other.txt", size=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("490\n361\n171\n", "line 1: must be a name and a label, not '490'"),  # the development kit
        ("a.JPEG 1 2\n", "line 1: must be a name and a label"),
        ("a.JPEG 1\n\na.JPEG 1\n", r"line 3: a\.JPEG stands there twice"),
        ("a.JPEG 1000\n", r"line 1: label 1000 is outside \[0, 999\]"),
        ("a.JPEG x\n", "line 1: label 'x' is not an integer"),
        ("a.JPEG 1\n", r"val_00000001\.JPEG: no line in the file of labels"),
    ],
)
def test_bad_files_of_labels(flat, text, message):
    (flat / "val.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        datasets.load("imagenet2012", path=flat, size=8)


def test_bad_folders(flat, by_class, tmp_path):
    def load(root, **options):
        return datasets.load("imagenet2012", path=root, size=8, **options)

    with pytest.raises(InputError, match=r"has folders of classes, so that labels='val.txt' has no use"):
        load(by_class, labels="val.txt")
    (by_class / "n01440764").rename(by_class / "n99999999")
    with pytest.raises(InputError, match=r"n99999999/.*00000293\.JPEG: lies in no folder that is"):
        load(by_class)
    (by_class / "n99999999").rename(by_class / "n01440764")
    name = "ILSVRC2012_val_00000001.JPEG"
    (by_class / name).write_bytes((flat / name).read_bytes())
    with pytest.raises(InputError, match=rf"another image has this name: .*{name}"):
        load(by_class)
    (by_class / "n01751748" / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: lies in no folder"):
        load(by_class)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no images"):
        load(tmp_path / "empty")
