"""Images in a folder: where the labels come from, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from srdef import datasets, models
from srdef.commands.select_images import select
from srdef.errors import InputError
from srdef.evaluation.experiment import load_dataset


def paint(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (level, level, level)).save(path)


def levels_of(dataset):
    return np.rint(dataset.images[:, 0, 0, 0] * 255).astype(int).tolist()


def load(path, **options):
    return datasets.load("folder", size=6, path=path, **options)


def test_csv_labels(tmp_path):
    paint(tmp_path / "b.png", 20)
    paint(tmp_path / "sub/a.PNG", 30)
    paint(tmp_path / "a.bmp", 10)
    paint(tmp_path / "not_in_the_csv.png", 40)
    paint(tmp_path / "sub/nor_this.png", 50)
    (tmp_path / "labels.csv").write_text("label,file,who\n7,./sub/a.PNG,x\n999,sub/../b.png,y\n0,a.bmp,z\n")
    named = r"2 images left out \(not_in_the_csv\.png, sub/nor_this\.png\): no row in labels\.csv"
    with pytest.warns(UserWarning, match=named):
        dataset = load(tmp_path)
    assert dataset.names == ("a.bmp", "b.png", "sub/a.PNG")
    assert dataset.labels.tolist() == [0, 999, 7]
    assert levels_of(dataset) == [10, 20, 30]
    assert dataset.num_classes == 1000


def test_csv_written_by_a_spreadsheet(tmp_path):
    paint(tmp_path / "a.png", 10)
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbffile,label\r\na.png,3\r\n")
    assert load(tmp_path, labels="mine.csv").labels.tolist() == [3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na.png,1000\n", r"line 2 \(a\.png\): label 1000 is outside \[0, 999\]"),
        ("file,label\na.png,-1\n", r"line 2 \(a\.png\): label -1 is outside"),
        ("file,label\na.png,dog\n", r"line 2 \(a\.png\): label 'dog' is not an integer"),
        ("file,label\na.png,1.5\n", r"label '1\.5' is not an integer"),
        ("file,label\na.png,1\nmissing.png,1\n", r"line 3 \(missing\.png\): no such file"),
        ("file,label\na.png,1\na.png,1\n", r"line 3 \(a\.png\): this file stands there twice"),
        ("file,label\n../outside.png,1\n", r"outside\.png\): no such file"),
        (
            "file,label\na.png,1\nsub/../a.png,2\n",
            r"line 3 \(sub/\.\./a\.png\): this file stands there twice",
        ),
        ("file,label\n" + "a" * 300 + ".png,1\n", r"line 2 \(a{100}\): no such file"),
        ("file,label\na.png,1_0\n", r"label '1_0' is not an integer"),
        ("file,label\na.png,٣\n", "is not an integer"),
        ("file,label\na.png\n", "line 2: label is missing"),
        ("name,label\na.png,1\n", "no column 'file'; its columns are: name, label"),
        ("file,label\n", "no rows below the header"),
        ("", "no column 'file'; its columns are: none"),
    ],
)
def test_bad_csv(tmp_path, content, message):
    root = tmp_path / "root"
    paint(root / "a.png", 10)
    paint(tmp_path / "outside.png", 10)
    (root / "labels.csv").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load(root)
    assert "labels.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_that_is_no_text_or_not_there(tmp_path):
    paint(tmp_path / "a.png", 10)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"labels\.csv: not a CSV file in UTF-8"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"other\.csv: no such file"):
        load(tmp_path, labels="other.csv")


def test_directories_in_sorted_order(tmp_path):
    paint(tmp_path / "zebra/1.png", 10)
    paint(tmp_path / "apple/2.png", 20)
    paint(tmp_path / "apple/deep/1.png", 30)
    (tmp_path / "mouse").mkdir()
    paint(tmp_path / ".hidden/1.png", 40)
    paint(tmp_path / "zebra/._1.png", 50)
    dataset = load(tmp_path, num_classes=3)
    assert dataset.names == ("apple/2.png", "apple/deep/1.png", "zebra/1.png")
    assert dataset.labels.tolist() == [0, 0, 2]
    assert dataset.class_names == ("apple", "mouse", "zebra")


@pytest.mark.parametrize("labels", ["directories", "predicted"])
def test_directories_behind_links_are_read(tmp_path, labels):
    paint(tmp_path / "elsewhere/images/a.png", 10)
    paint(tmp_path / "mine/cat/b.png", 20)
    (tmp_path / "mine/dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine/cat/back").symlink_to(tmp_path / "mine")  # no way round and round
    dataset = load(tmp_path / "mine", labels=labels, num_classes=2)
    assert dataset.names == ("cat/b.png", "dog/images/a.png")
    assert levels_of(dataset) == [20, 10]
    if labels == "directories":
        assert dataset.labels.tolist() == [0, 1]


def test_names_in_a_csv_may_be_absolute_or_links(tmp_path, monkeypatch):
    paint(tmp_path / "elsewhere.png", 10)
    paint(tmp_path / "mine/b.png", 20)
    (tmp_path / "mine/a.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "mine/labels.csv").write_text(f"file,label\na.png,1\n{tmp_path / 'mine/b.png'},2\n")
    monkeypatch.chdir(tmp_path)
    dataset = load("mine")
    assert (dataset.names, dataset.labels.tolist()) == (("a.png", "b.png"), [1, 2])


def test_two_directories_of_one_class_are_refused(tmp_path):
    for name in ("1", "01", "2"):
        paint(tmp_path / name / "a.png", 10)
    with pytest.raises(InputError, match="the directories 01, 1 are one class"):
        load(tmp_path)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path):
    try:
        paint(tmp_path / "a\udcff.png", 10)
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(InputError, match=r"a\\udcff\.png': a name that is not UTF-8"):
        load(tmp_path, labels="predicted")


def test_directories_that_are_not_all_classes(tmp_path):
    """Numbering 2 directories for a classifier of 1000 classes would silently be wrong."""
    paint(tmp_path / "zebra/1.png", 10)
    paint(tmp_path / "apple/2.png", 20)
    with pytest.raises(InputError, match=r"2 class directories for 1000 classes.*num_classes=2"):
        load(tmp_path)


def test_directories_named_by_index(tmp_path):
    paint(tmp_path / "10/a.png", 10)
    paint(tmp_path / "9/a.png", 20)
    dataset = load(tmp_path, num_classes=11)
    assert dataset.names == ("10/a.png", "9/a.png")
    assert dataset.labels.tolist() == [10, 9]
    assert dataset.class_names[10] == "class 10"
    with pytest.raises(InputError, match=r"10: label 10 is outside \[0, 9\]"):
        load(tmp_path, num_classes=10)


def test_directories_named_by_wordnet_id(tmp_path):
    paint(tmp_path / "n02099601/a.png", 10)
    paint(tmp_path / "n01440764/b.png", 20)
    dataset = load(tmp_path)
    assert [dataset.class_names[label] for label in dataset.labels] == ["tench", "golden retriever"]
    paint(tmp_path / "n00000001/b.png", 20)
    with pytest.raises(InputError, match="n00000001: not one of the 1000 ImageNet classes"):
        load(tmp_path)
    with pytest.raises(InputError, match="need num_classes=1000"):
        load(tmp_path, num_classes=3)


def test_image_outside_all_class_directories(tmp_path):
    paint(tmp_path / "0/a.png", 10)
    paint(tmp_path / "loose.png", 10)
    with pytest.raises(InputError, match=r"loose\.png lies in no class directory"):
        load(tmp_path)


def test_predicted_labels_are_left_open(tmp_path):
    paint(tmp_path / "b.png", 20)
    paint(tmp_path / "sub/a.png", 10)
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = load(tmp_path, labels="predicted")
    assert dataset.names == ("b.png", "sub/a.png")
    assert dataset.labels.tolist() == [-1, -1]


@pytest.mark.parametrize("labels", ["predicted", "directories", "labels.csv"])
def test_images_in_other_formats_are_counted_and_named(tmp_path, labels):
    paint(tmp_path / "0/a.png", 10)
    for name in ("0/e.gif", "0/b.gif", "0/d.ppm", "0/c.gif"):
        paint(tmp_path / name, 10)
    (tmp_path / "0/notes.txt").touch()
    (tmp_path / "0/.hidden.gif").touch()
    (tmp_path / "labels.csv").write_text("file,label\n0/a.png,0\n")
    named = (
        rf"folder {tmp_path}: 4 images left out \(0/b\.gif, 0/c\.gif, 0/d\.ppm, \.\.\.\): other formats than"
    )
    with pytest.warns(UserWarning, match=named) as caught:
        assert load(tmp_path, labels=labels).names == ("0/a.png",)
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_without_images_left_out_there_is_no_warning(tmp_path):
    paint(tmp_path / "a.png", 10)
    (tmp_path / "labels.csv").write_text("file,label\na.png,0\n")
    load(tmp_path)
    load(tmp_path, labels="predicted")


@pytest.mark.parametrize("labels", [None, "predicted", "directories"])
def test_empty_folder(tmp_path, labels):
    with pytest.raises(InputError, match=f"folder {tmp_path} has no images"):
        load(tmp_path, labels=labels)


def test_a_relative_folder_that_is_missing_says_where_it_was_looked_for(tmp_path, monkeypatch):
    """A report of a run may be made from another folder than the run."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^folder pictures does not exist in {tmp_path}$"):
        load("pictures")


def test_wrong_folder_or_option(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        load(tmp_path / "file")
    with pytest.raises(InputError, match="unknown labels 'dirs'; choose from: directories, predicted"):
        load(tmp_path, labels="dirs")
    with pytest.raises(InputError, match="num_classes must be an integer of at least 1"):
        load(tmp_path, num_classes=0)


def test_damaged_image_among_good_ones(tmp_path):
    for name in "abcd":
        paint(tmp_path / f"{name}.png", 10)
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:50])
    with pytest.raises(InputError, match=r"image .*c\.png"):
        load(tmp_path, labels="predicted")
    assert len(load(tmp_path, labels="predicted", limit=2)) == 2


@pytest.mark.parametrize("load", [load_dataset, lambda config, classifier: select(config, 1)])
def test_a_model_of_other_classes_is_answered_with_the_option(tmp_path, monkeypatch, load):
    for index in range(2):
        paint(tmp_path / str(index) / "a.png", 10)
    two = models.from_function(lambda x: x.mean(axis=(1, 2))[:, :2], num_classes=2)
    monkeypatch.setitem(models.REGISTRY._builders, "two", lambda rngs=None: two)
    given = {"name": "folder", "path": str(tmp_path), "size": 6}
    config = {"seed": 0, "batch_size": 1, "dataset": given, "classifier": {"name": "two"}}
    with pytest.raises(InputError, match=r"1000 classes, model 'two' has 2; if they are .*: ") as raised:
        load(config, classifier=two)
    assert str(raised.value).endswith("--config.dataset.num_classes=2")
    assert load_dataset(config | {"dataset": given | {"num_classes": 2}}, classifier=two).num_classes == 2
