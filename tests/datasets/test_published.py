"""CIFAR and MNIST: their formats in files written here, a download from a server here, and damaged ones."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import pickle
import struct
import tarfile
import threading

import numpy as np
import pytest

from srdef import attacks, datasets, victims
from srdef.datasets import published
from srdef.errors import InputError

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
LABELS = np.array([9, 0, 3, 3, 7, 1], np.uint8)
COARSE, FINE = np.array([19, 0, 5, 4, 1, 2], np.uint8), np.array([99, 0, 40, 50, 1, 2], np.uint8)
DIGITS = DRAW.integers(0, 256, (4, 28, 28), dtype=np.uint8)


def records(*labels):
    """The format of https://www.cs.toronto.edu/~kriz/cifar.html: labels, then the red, green, blue planes."""
    columns = [*(column[:, None] for column in labels), PIXELS.reshape(6, -1)]
    return np.concatenate(columns, axis=1).tobytes()


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def idx(array):
    """The format of http://yann.lecun.com/exdb/mnist: magic number, sizes, bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def cifar10(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(records(LABELS))
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(records((LABELS + i) % 10))
    return tmp_path


@pytest.fixture
def mnist(tmp_path):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(DIGITS))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    return tmp_path


def test_cifar10_files_in_a_folder(cifar10):
    dataset = datasets.load("cifar10", path=cifar10)
    np.testing.assert_array_equal(dataset.images, PIXELS.transpose(0, 2, 3, 1) / np.float32(255))
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.class_names[9] == "truck"
    assert dataset.names[5] == "test/5"
    train = datasets.load("cifar10", path=cifar10, split="train", offset=10, limit=3)
    assert train.labels.tolist() == [9, 3, 2]  # the last two of the second file, the first of the third
    assert train.ids.tolist() == [10, 11, 12]
    assert datasets.load("cifar10", path=cifar10, size=16, limit=2).images.shape == (2, 16, 16, 3)


def test_cifar100_has_two_kinds_of_labels(tmp_path):
    packed = archive({"cifar-100-binary/test.bin": records(COARSE, FINE), "cifar-100-binary/train.bin": b""})
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(packed)
    fine = datasets.load("cifar100", path=tmp_path)
    coarse = datasets.load("cifar100", path=tmp_path / "cifar-100-binary.tar.gz", labels="coarse")
    assert fine.labels.tolist() == FINE.tolist()
    assert coarse.labels.tolist() == COARSE.tolist()
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    assert (fine.class_names[99], coarse.class_names[19]) == ("worm", "vehicles_2")
    np.testing.assert_array_equal(fine.images, coarse.images)


def python2_pickle(labels, images=PIXELS):
    """The format of cifar-10-python.tar.gz: what Python 2's cPickle wrote with protocol 2."""

    def string(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def listed(values):
        return b"](" + b"".join(b"K" + bytes([value]) for value in values) + b"e"

    pixels = images.reshape(len(images), -1)
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(b"M" + struct.pack("<H", size) for size in pixels.shape) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    items = b"".join(string(name.encode()) + listed(values) for name, values in labels.items())
    batch = string(b"batch_label") + string(b"testing batch 1 of 1")
    return b"\x80\x02}(" + batch + items + string(b"data") + array + b"u."


def test_what_torchvision_downloads_is_read(tmp_path, cifar10):
    content = python2_pickle({"labels": LABELS})
    # That it is such a pickle, says Python's own reader, as torchvision calls it.
    python = pickle.loads(content, encoding="latin1")
    np.testing.assert_array_equal(python["data"], PIXELS.reshape(6, -1))
    home = tmp_path / "torchvision"
    (home / "cifar-10-batches-py").mkdir(parents=True)
    (home / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    expected = datasets.load("cifar10", path=cifar10)
    (home / "cifar-10-python.tar.gz").write_bytes(archive({"cifar-10-batches-py/test_batch": content}))
    for path in (home, home / "cifar-10-batches-py", home / "cifar-10-python.tar.gz"):
        dataset = datasets.load("cifar10", path=path)
        np.testing.assert_array_equal(dataset.images, expected.images)
        assert dataset.labels.tolist() == LABELS.tolist()
    (tmp_path / "train").write_bytes(python2_pickle({"coarse_labels": COARSE, "fine_labels": FINE}))
    for kind, values in (("fine", FINE), ("coarse", COARSE)):
        dataset = datasets.load("cifar100", path=tmp_path, split="train", labels=kind)
        assert dataset.labels.tolist() == values.tolist()
    for wrong, message in (
        (pickle.dumps({"labels": [1]}), "test_batch: is no dictionary of labels and data of"),
        (python2_pickle({"labels": LABELS[:5]}), "test_batch: labels are not 6 classes"),
        (python2_pickle({"labels": LABELS + 1}), "has the label 10, which is outside"),
        (pickle.dumps(np.random.default_rng), "test_batch: refused: it asks for the global numpy"),
        (content[:-9], "test_batch: damaged"),
        (b"", "test_batch: damaged"),
    ):
        (home / "cifar-10-batches-py" / "test_batch").write_bytes(wrong)
        with pytest.raises(InputError, match=message):
            datasets.load("cifar10", path=home)


def test_mnist_files_are_gray_packed_or_not(mnist):
    dataset = datasets.load("mnist", path=mnist)
    np.testing.assert_array_equal(dataset.images, DIGITS[..., None] / np.float32(255))
    assert dataset.labels.tolist() == LABELS[:4].tolist()
    raw = mnist / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in mnist.glob("*-ubyte"):
        (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = datasets.load("mnist", path=mnist, channels=3)
    np.testing.assert_array_equal(packed.images, np.repeat(dataset.images, 3, axis=-1))


def test_gray_images_can_be_attacked(mnist):
    import jax

    images, labels = datasets.load("mnist", path=mnist)
    weights = np.random.default_rng(1).normal(size=(28 * 28, 10)).astype(np.float32)

    def model(images):
        return images.reshape(len(images), -1) @ weights

    result = attacks.perturb(
        attacks.fgsm(8 / 255), victims.Undefended(model), images, labels, key=jax.random.key(0)
    )
    assert result.images.shape == (4, 28, 28, 1)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder that a server on loopback offers, and an empty cache."""
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *_):
            pass

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "served", f"http://127.0.0.1:{http_server.server_port}"
    http_server.shutdown()
    http_server.server_close()


def offer(server, entry, content):
    """The entry for `content`, which the server offers under the published name."""
    folder, address = server
    (folder / entry.file).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(
        entry, url=f"{address}/{entry.file}", size=len(content), digest=f"sha256:{sha256}"
    )


def test_cifar10_is_downloaded_once(server, monkeypatch, tmp_path):
    packed = archive({"cifar-10-batches-bin/test_batch.bin": records(LABELS)})
    monkeypatch.setitem(published.CIFAR, "cifar10", offer(server, published.CIFAR["cifar10"], packed))
    assert datasets.load("cifar10").labels.tolist() == LABELS.tolist()
    (server[0] / "cifar-10-binary.tar.gz").unlink()
    assert datasets.load("cifar10", limit=1).labels.tolist() == [9]
    (tmp_path / "cache" / "cifar-10-binary.tar.gz").write_bytes(packed[:-5])
    with pytest.raises(InputError, match=r"data set 'cifar10': data set file .*truncated") as error:
        datasets.load("cifar10")
    assert "weights" not in str(error.value)


def test_mnist_is_downloaded(server, monkeypatch):
    for name, array in (("t10k-images-idx3-ubyte", DIGITS), ("t10k-labels-idx1-ubyte", LABELS[:4])):
        entry = offer(server, published.MNIST[name], gzip.compress(idx(array)))
        monkeypatch.setitem(published.MNIST, name, entry)
    assert datasets.load("mnist").labels.tolist() == LABELS[:4].tolist()
    with pytest.raises(InputError, match="unknown split 'validation'; choose from: test, train"):
        datasets.load("mnist", split="validation")


def test_the_entries_are_those_of_the_published_files():
    """Against TensorFlow Datasets' own list of sizes and hashes."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from pathlib import Path

    lists = Path(tfds.__file__).parent / "url_checksums"
    known = {
        line.split("\t")[0]: line.split("\t")[1:3]
        for name in ("cifar10", "cifar100", "mnist")
        for line in (lists / f"{name}.txt").read_text().splitlines()
    }
    entries = [*published.CIFAR.values(), *published.MNIST.values()]
    assert len(entries) == 6
    for entry in entries:
        assert known[entry.url] == [str(entry.size), entry.digest.removeprefix("sha256:")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no whole number of records of 3073 bytes"),
        (records(LABELS)[:-1], "18437 bytes are no whole number of records of 3073 bytes; it is truncated"),
        (records(LABELS + 1), r"test_batch.bin: record 0 has the label 10, which is outside \[0, 9\]"),
    ],
)
def test_damaged_cifar_files(cifar10, content, message):
    (cifar10 / "test_batch.bin").write_bytes(content)
    with pytest.raises(InputError, match=message):
        datasets.load("cifar10", path=cifar10)


def test_missing_and_damaged_cifar_archives(tmp_path):
    packed = archive({"cifar-10-batches-bin/test_batch.bin": records(LABELS)})
    file = tmp_path / "cifar-10-binary.tar.gz"
    with pytest.raises(InputError, match=r"has neither test_batch.bin, nor cifar-10-batches-bin"):
        datasets.load("cifar10", path=tmp_path)
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        datasets.load("cifar10", path=tmp_path / "nowhere")
    for content in (b"", b"no archive at all", packed[:-3000], packed[:20]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=rf"{file.name}: (cannot be read, it may be damaged|has no)"):
            datasets.load("cifar10", path=tmp_path)
    file.write_bytes(packed)
    with pytest.raises(InputError, match=r"has no data_batch_1.bin"):
        datasets.load("cifar10", path=tmp_path, split="train")
    (tmp_path / "data_batch_3.bin").write_bytes(records(LABELS))
    with pytest.raises(InputError, match=r"data_batch_1.bin: cannot be read"):
        datasets.load("cifar10", path=tmp_path, split="train")
    with pytest.raises(InputError, match="unknown labels 'all'; choose from: fine, coarse"):
        datasets.load("cifar100", path=tmp_path, labels="all")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3", b"", "not an IDX file of bytes in 3 dimensions"),
        ("images-idx3", idx(DIGITS)[:-1], "3135 bytes in the place of 4x28x28; it is truncated"),
        ("images-idx3", idx(LABELS), "not an IDX file of bytes in 3 dimensions"),
        ("images-idx3", idx(DIGITS[:3]), "has 3 images and t10k-labels-idx1-ubyte 4 labels"),
        ("labels-idx1", idx(LABELS[:4] + 3), r"label 12 of image 0 is outside \[0, 9\]"),
        ("labels-idx1", struct.pack(">HBBI", 0, 8, 1, 2**31), "0 bytes in the place of 2147483648"),
    ],
)
def test_damaged_mnist_files(mnist, name, content, message):
    (mnist / f"t10k-{name}-ubyte").write_bytes(content)
    with pytest.raises(InputError, match=message):
        datasets.load("mnist", path=mnist)


def test_missing_and_damaged_packed_mnist_files(mnist):
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte and no train-images-idx3-ubyte.gz"):
        datasets.load("mnist", path=mnist, split="train")
    with pytest.raises(InputError, match="channels must be 1 or 3, not 2"):
        datasets.load("mnist", path=mnist, channels=2)
    (mnist / "t10k-images-idx3-ubyte").unlink()
    packed = gzip.compress(idx(DIGITS))
    for content in (b"no gzip", packed[:-9], packed[:500]):
        (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"ubyte.gz: cannot be read, it may be damaged"):
            datasets.load("mnist", path=mnist)
