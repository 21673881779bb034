"""`datasets.load`: the sample images, parts of a data set, and what a Dataset can do."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from srdef import datasets
from srdef.errors import InputError

LABELS = [243, 559, 438, 990, 949, 853, 609, 609, 915, 455, 541, 630, 741, 471, 129, 99, 251, 22, 317, 305]


@pytest.fixture(scope="module")
def samples():
    return datasets.load("imagenet_samples", size=64)


def test_samples_unpack_into_images_and_labels(samples):
    images, labels = samples
    assert images.shape == (20, 64, 64, 3)
    assert images.dtype == np.float32
    assert labels.dtype == np.int32
    assert labels.tolist() == LABELS
    assert len(samples) == 20
    assert samples.names[0] == "imagenet_00_243"
    assert samples.ids.tolist() == list(range(20))


def test_samples_are_exact_8_bit_levels(samples):
    levels = np.rint(samples.images * 255)
    np.testing.assert_array_equal(samples.images, levels.astype(np.float32) / np.float32(255))
    assert samples.images.min() == 0
    assert samples.images.max() == 1


def test_samples_against_pillow(samples):
    """The third sample by hand: centre square of 64/96 of the shorter side, bicubic."""
    folder = importlib.util.find_spec("foolbox").submodule_search_locations[0]
    image = Image.open(f"{folder}/data/imagenet_02_438.jpg").convert("RGB")
    side = int(min(image.size) * 64 / 96)
    left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
    square = image.crop((left, top, left + side, top + side))
    expected = np.asarray(square.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(np.rint(samples.images[2] * 255), expected)


def test_samples_without_foolbox(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install foolbox"):
        datasets.load("imagenet_samples", size=64)


def test_class_names(samples):
    names = samples.class_names
    assert samples.num_classes == len(names) == len({name.lower() for name in names}) == 1000
    known = {0: "tench", 207: "golden retriever", 243: "bull mastiff", 438: "beaker", 541: "drum"}
    known |= {609: "jeep", 949: "strawberry", 990: "buckeye", 134: "crane (bird)", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
    wordnet_ids = datasets.imagenet_wordnet_ids()
    assert list(wordnet_ids) == sorted(set(wordnet_ids))
    assert (len(wordnet_ids), wordnet_ids[0], wordnet_ids[207]) == (1000, "n01440764", "n02099601")


def test_offset_and_limit_keep_the_ids(samples):
    part = datasets.load("imagenet_samples", size=64, offset=17, limit=2)
    np.testing.assert_array_equal(part.images, samples.images[17:19])
    assert part.ids.tolist() == [17, 18]
    assert part.labels.tolist() == LABELS[17:19]
    assert part.names == samples.names[17:19]
    assert len(datasets.load("imagenet_samples", size=8, offset=17, limit=100)) == 3


def test_select_by_mask_and_by_slice(samples):
    mask = samples.labels == 609
    assert samples.select(mask).ids.tolist() == [6, 7]
    part = samples.select(slice(18, None))
    assert part.names == samples.names[18:]
    np.testing.assert_array_equal(part.images, samples.images[18:])


def test_digest_sees_every_change(samples):
    part = samples.select(slice(0, 2))
    same = datasets.load("imagenet_samples", size=64, limit=2)
    assert part.digest() == same.digest()
    same.images[0, 0, 0, 0] += 1 / 255
    assert part.digest() != same.digest()
    assert part.digest() != samples.select(slice(1, 3)).digest()
    assert part.digest() != datasets.load("imagenet_samples", size=32, limit=2).digest()


def test_progress_counts_up():
    seen = []
    datasets.load(
        "imagenet_samples", size=8, limit=3, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("imagenet", {}, "unknown data set 'imagenet'; choose from: .*imagenet_samples"),
        ("imagenet_samples", {"path": "x"}, "imagenet_samples.*unexpected keyword argument 'path'"),
        ("imagenet_samples", {"crop": "centre"}, "unknown crop 'centre'; choose from: center, none"),
        *(
            ("imagenet_samples", {"size": v}, "size must be an integer of at least 1")
            for v in (0, True, "8", 8.5)
        ),
        *(
            ("imagenet_samples", {"limit": v}, "limit must be an integer of at least 1")
            for v in (0, True, 1.5)
        ),
        ("imagenet_samples", {"offset": "a"}, "offset must be an integer of at least 0, not 'a'"),
        ("imagenet_samples", {"keep": "no"}, "keep must be True or False"),
        ("imagenet_samples", {"offset": 20}, "offset 20 is outside .* 20 images"),
        ("imagenet_samples", {"offset": -1}, "offset must be an integer of at least 0, not -1"),
    ],
)
def test_bad_requests(name, options, message):
    with pytest.raises(InputError, match=message):
        datasets.load(name, **{"size": 8, **options})


def test_list():
    assert set(datasets.list_names()) == {
        "arrays",
        "cifar10",
        "cifar100",
        "crops",
        "folder",
        "imagenet2012",
        "imagenet_samples",
        "mnist",
        "nips2017",
        "tfds",
    }


def test_images_keep_their_size_if_none_is_given(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 3), dtype=np.uint8)
    for name, image in zip("ab", levels, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,1\nb.png,0\n")
    dataset = datasets.load("folder", path=tmp_path)
    np.testing.assert_array_equal(dataset.images, levels / np.float32(255))
    Image.new("RGB", (5, 5)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"image b.png is 5x5x3, and a.png is 6x9x3: say size=, in pixels"):
        datasets.load("folder", path=tmp_path)
    with pytest.raises(InputError, match="crop='center' depends on the size"):
        datasets.load("folder", path=tmp_path, crop="center")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "imagenet2012", "mnist", "nips2017"])
def test_an_empty_path_is_not_the_current_folder(name):
    """What an unset variable of a shell leaves of `--config.dataset.path=$DIR`."""
    with pytest.raises(InputError, match="an empty path names no folder"):
        datasets.load(name, path="", size=64)
