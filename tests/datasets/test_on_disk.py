"""Images that are read when they are needed: the same as in memory, no more of them than asked for."""

import os
from dataclasses import replace

import numpy as np
import pytest
import toys
from PIL import Image

from srdef import datasets
from srdef.datasets import base, on_disk
from srdef.datasets.base import Entry, Example, Source
from srdef.errors import InputError
from srdef.evaluation import gray_box
from srdef.evaluation.progress import Reporter


@pytest.fixture(autouse=True)
def nothing_is_kept(monkeypatch):
    monkeypatch.setattr(base, "LARGEST_IN_MEMORY", 0)


@pytest.fixture
def levels(rng):
    return rng.integers(0, 256, (9, 12, 16, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, levels):
    for i, image in enumerate(levels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,{i % 4}" for i in range(len(levels))]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return tmp_path


@pytest.fixture
def competition(folder):
    """The same images as `nips2017` has them."""
    root = folder / "nips"
    (root / "images").mkdir(parents=True)
    for i in range(9):
        os.link(folder / f"{i}.png", root / "images" / f"{i}.png")
    rows = [f"{i},{i % 4 + 1}" for i in range(9)]
    (root / "images.csv").write_text("\n".join(["ImageId,TrueLabel", *rows]) + "\n")
    return root


def both(name, **options):
    """A data set on the disk, and in memory."""
    lazy = datasets.load(name, keep=False, **options)
    assert isinstance(lazy.pixels, datasets.ImagesOnDisk)
    return lazy, datasets.load(name, **options)


def check_the_same(lazy, kept):
    assert isinstance(kept.pixels, np.ndarray)
    assert lazy.names == kept.names
    assert lazy.class_names == kept.class_names
    np.testing.assert_array_equal(lazy.labels, kept.labels)
    np.testing.assert_array_equal(lazy.ids, kept.ids)
    assert lazy.images.dtype == np.float32
    np.testing.assert_array_equal(lazy.images, kept.images)
    assert len(lazy) == len(kept)
    assert lazy.image_shape == kept.image_shape


@pytest.mark.parametrize("options", [{}, {"size": 8}, {"size": 8, "crop": "none", "offset": 2, "limit": 5}])
def test_folder(folder, options):
    check_the_same(*both("folder", path=folder, **options))


def test_nips2017(competition):
    check_the_same(*both("nips2017", path=competition, stride=2, size=8))


def test_crops(folder):
    lazy, kept = both("crops", paths=(str(folder),), side=8, num_classes=4)
    check_the_same(lazy, kept)
    other = datasets.load("crops", paths=(str(folder),), side=7, num_classes=4, keep=False, size=8)
    assert lazy.pixels.signature() != other.pixels.signature()


def test_arrays(tmp_path, levels):
    labels = np.arange(9) % 4
    check_the_same(*both("arrays", images=levels, labels=labels))
    check_the_same(*both("arrays", images=levels / np.float32(255), labels=labels))
    check_the_same(*both("arrays", images=levels[..., 0], labels=labels, size=8))
    np.savez(tmp_path / "all.npz", images=levels, labels=labels)
    check_the_same(*both("arrays", path=tmp_path / "all.npz"))
    np.save(tmp_path / "x.npy", levels.transpose(0, 3, 1, 2))
    np.save(tmp_path / "labels.npy", labels)
    check_the_same(*both("arrays", path=tmp_path / "x.npy", channels_first=True))


def test_a_selection(folder, tmp_path):
    chosen = datasets.selection.Selection(
        dataset="folder", size=8, crop="center", classifier="c", weights="w", seed=0, tried=3,
        positions=[4, 1, 7], names=["4.png", "1.png", "7.png"], labels=[0, 1, 3],
    )  # fmt: skip
    chosen.save(tmp_path / "chosen.json")
    lazy, kept = both("folder", path=folder, size=8, selection=tmp_path / "chosen.json", offset=1)
    check_the_same(lazy, kept)
    assert lazy.ids.tolist() == [1, 7]


def test_every_index(folder):
    lazy, kept = both("folder", path=folder)
    for rows in (3, -1, slice(2, 5), slice(None, None, 3), np.array([7, 0, 7]), [1, 2], kept.labels == 1):
        np.testing.assert_array_equal(lazy.pixels[rows], kept.images[rows])
    for rows in (slice(2, 7), np.array([8, 2, 4]), kept.labels == 2):
        part = lazy.select(rows)
        check_the_same(part, kept.select(rows))
        np.testing.assert_array_equal(part.batch(slice(1, 2)), kept.select(rows).images[1:2])


def counted(levels, monkeypatch):
    """A data set on the disk, and the list of the positions that are read."""
    reads = []

    def read(position):
        reads.append(position)
        return Example(levels[position], position % 4, f"{position}.png")

    def entry(position):
        return Entry(position % 4, f"{position}.png", f"as ever {position}")

    source = Source(len(levels), read, tuple("abcd"), crop="none", entry=entry)
    dataset = base.leave_on_disk(source, range(len(levels)), None)
    reads.clear()  # the first one tells the shape
    return dataset, reads


def test_only_what_is_asked_for_is_read(levels, monkeypatch):
    dataset, reads = counted(levels, monkeypatch)
    dataset.select(slice(3, 9)).select(slice(1, 3))
    assert reads == []
    dataset.batch(slice(2, 5))
    assert sorted(reads) == [2, 3, 4]
    # The next batch is read while the first one is at work, and no image of the two again.
    dataset.pixels.ahead(slice(5, 8))
    dataset.batch(np.array([3, 4]))
    dataset.batch(slice(5, 8))
    assert sorted(reads) == [2, 3, 4, 5, 6, 7]
    # Nor are more than two batches kept.
    dataset.batch(slice(0, 3))
    dataset.batch(slice(2, 5))
    assert sorted(reads) == [0, 1, 2, 3, 3, 4, 4, 5, 6, 7]
    assert len(dataset.pixels._recent) == 6


def test_all_images_at_once_are_not_kept_twice(levels, monkeypatch):
    monkeypatch.setattr(on_disk, "_MANY", 2)
    dataset, reads = counted(levels, monkeypatch)
    np.testing.assert_array_equal(dataset.images, levels / np.float32(255))
    assert len(reads) == 9
    assert len(dataset.pixels._recent) <= 4


def test_the_digest_is_of_all_that_counts(folder, levels):
    def load(**options):
        return datasets.load("folder", path=folder, keep=False, **options)

    same = load().digest()
    assert same == load().digest()
    # Images that have been read need not be read for it.
    part = load().select(slice(2, 5))
    part.batch(slice(0, 3))
    assert part.pixels.all_known
    assert part.digest() == load().select(slice(2, 5)).digest()
    others = [load(size=8).digest(), part.digest(), load(labels="predicted").digest()]
    changed = levels[3].copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(folder / "3.png")
    others.append(load().digest())
    assert len({same, *others}) == 5


def test_the_signature_is_of_files_and_of_how_they_are_read(folder):
    def signature(**options):
        return datasets.load("folder", path=folder, keep=False, **options).pixels.signature()

    same = signature()
    assert same == signature()
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("0.png,0", "0.png,3"))
    assert same == signature()
    others = [signature(size=8), signature(size=8, crop="none"), signature(limit=8)]
    os.utime(folder / "3.png", ns=(1, 1))
    others.append(signature())
    assert len({same, *others}) == 5


def test_other_rows_of_one_file_have_another_signature(tmp_path, levels):
    """All images of an .npy file have its time of modification, and are told apart by their place."""
    np.save(tmp_path / "x.npy", levels)
    options = {"path": tmp_path / "x.npy", "labels": "predicted", "num_classes": 4, "keep": False}
    parts = ({"limit": 3}, {"offset": 3, "limit": 3}, {"offset": 6}, {})
    signatures = {datasets.load("arrays", **options, **part).pixels.signature() for part in parts}
    assert len(signatures) == 4


def test_an_image_that_changes_meanwhile_is_an_error(folder, levels):
    dataset = datasets.load("folder", path=folder, keep=False)
    dataset.batch(slice(2, 4))
    Image.fromarray(255 - levels[3]).save(folder / "3.png")
    for rows in (slice(4, 6), slice(6, 8)):
        dataset.batch(rows)
    message = r"image 3\.png is no longer what it was when it was first read"
    with pytest.raises(InputError, match=message):
        dataset.batch(slice(2, 4))
    # Also for who has the hashes of another process, or of an earlier run.
    again = datasets.load("folder", path=folder, keep=False)
    again.pixels.know(dataset.pixels.hashes())
    with pytest.raises(InputError, match=message):
        again.batch(slice(2, 4))
    # Put back, it can be read, also after the error.
    Image.fromarray(levels[3]).save(folder / "3.png")
    np.testing.assert_array_equal(again.batch(slice(2, 4)), levels[2:4] / np.float32(255))


def test_bad_images_are_named(folder):
    Image.new("RGB", (5, 5)).save(folder / "4.png")
    (folder / "6.png").write_bytes(b"no image")
    dataset = datasets.load("folder", path=folder, keep=False)
    dataset.batch(slice(0, 4))
    with pytest.raises(InputError, match=r"image 4\.png is 5x5x3, and 0\.png is 12x16x3: say size=, in pix"):
        dataset.batch(slice(3, 6))
    with pytest.raises(InputError, match=r"6\.png: not an image in a known format"):
        dataset.batch(slice(6, 7))


def test_small_data_sets_and_those_that_say_nothing_of_their_images_are_kept(folder, monkeypatch):
    silent = Source(1, lambda position: Example(np.zeros((4, 4, 3), np.uint8), 0, "a"), ("a",), crop="none")
    assert base.leave_on_disk(silent, [0], None) is None
    monkeypatch.setattr(base, "LARGEST_IN_MEMORY", 9 * 12 * 16 * 3 * 4)
    assert isinstance(datasets.load("folder", path=folder, keep=False).pixels, np.ndarray)


def lazy_experiment(experiment, read=None):
    """The same experiment with its images on the disk."""
    kept = experiment.dataset
    levels = np.rint(255 * kept.images).astype(np.uint8)
    names = kept.names
    images = datasets.ImagesOnDisk(read or (lambda row: levels[row]), names, levels.shape[1:], names, "")
    return replace(experiment, dataset=replace(kept, pixels=images))


def test_an_evaluation_finds_the_same(tmp_path):
    experiment = toys.make_experiment()
    expected = gray_box.run(experiment, tmp_path / "kept", Reporter())
    reporter = Reporter()
    found = gray_box.run(lazy_experiment(experiment), tmp_path / "lazy", reporter)
    assert found.records.equals(expected.records)
    assert found.strengths == expected.strengths
    # With labels that the classifier gives, too.
    unlabelled = replace(experiment.dataset, labels=np.full(7, -1, np.int32))
    expected = gray_box.run(replace(experiment, dataset=unlabelled), None, Reporter())
    found = gray_box.run(lazy_experiment(replace(experiment, dataset=unlabelled)), None, Reporter())
    assert found.records.equals(expected.records)


def test_a_finished_evaluation_reads_nothing_and_a_stopped_one_little(tmp_path):
    experiment = toys.make_experiment()
    levels = np.rint(255 * experiment.dataset.images).astype(np.uint8)
    reads = []

    def read(row):
        reads.append(row)
        if len(reads) > limit:
            raise InputError("stopped")
        return levels[row]

    limit = 4  # in the second batch of the first pass
    with pytest.raises(InputError, match="stopped"):
        gray_box.run(lazy_experiment(experiment, read), tmp_path, Reporter())
    limit, reads = 10**6, []
    again = gray_box.run(lazy_experiment(experiment, read), tmp_path, Reporter())
    assert again.records.equals(gray_box.run(experiment, None, Reporter()).records)
    limit, reads = 0, []
    reporter = Reporter()
    again = gray_box.run(lazy_experiment(experiment, read), tmp_path, reporter)
    assert again.records.equals(gray_box.run(experiment, None, Reporter()).records)
    assert reads == []
    assert reporter.computed == 0


def test_data_that_changed_are_computed_again(tmp_path):
    experiment = toys.make_experiment()
    kept = experiment.dataset
    levels = np.rint(255 * kept.images).astype(np.uint8)

    def run(*stamps):
        """With the levels as they are now, and with another time of modification of some images."""
        stamps = [*stamps, *kept.names[len(stamps) :]]
        pixels = datasets.ImagesOnDisk(lambda row: levels[row], kept.names, levels.shape[1:], stamps, "")
        reporter = Reporter()
        changed = replace(experiment, dataset=replace(kept, pixels=pixels))
        return gray_box.run(changed, tmp_path, reporter).records, reporter.computed

    _, computed = run()
    assert computed > 20
    levels[0] = 255 - levels[0]
    records, computed = run("new")
    assert computed > 20
    changed = replace(kept, pixels=levels / np.float32(255))
    assert records.equals(gray_box.run(replace(experiment, dataset=changed), None, Reporter()).records)
    # The same images at another time: only the first pass is repeated.
    again, computed = run("touched")
    assert again.equals(records)
    assert computed == len(kept)
