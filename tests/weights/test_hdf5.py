import os

import h5py
import numpy as np
import pytest

from srdef.errors import InputError
from srdef.weights import readers


def write_h5(path, write):
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        group = file.create_group("conv")
        group.attrs["weight_names"] = [b"conv/kernel:0"]
        write(group)


def test_reads_arrays_and_long_lists_of_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        root = file.create_group("model_weights")
        root.attrs["layer_names0"] = np.asarray([b"b"])
        root.attrs["layer_names1"] = np.asarray([b"a", b"pool"])
        for layer, names in (("b", [b"b/kernel:0", b"b/bias:0"]), ("a", [b"a/kernel:0"]), ("pool", [])):
            group = root.create_group(layer)
            group.attrs["weight_names"] = names
            for i, name in enumerate(names):
                group[name.decode()] = np.full(2, i, np.float32)
    tensors = readers.read(tmp_path / "a.h5")
    assert list(tensors) == ["b/b/kernel:0", "b/b/bias:0", "a/a/kernel:0"]
    np.testing.assert_array_equal(tensors["b/b/bias:0"], [1, 1])


def test_reads_the_names_of_a_deep_network(tmp_path):
    """780 layers, as InceptionResNetV2 has: HDF5 keeps their names together in 32 kB."""
    names = [f"batch_normalization_{i}" for i in range(780)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            file.create_group(name).attrs["weight_names"] = []
        file[names[-1]].attrs["weight_names"] = [b"gamma:0"]
        file[names[-1]]["gamma:0"] = np.ones(2, np.float32)
    assert list(readers.read(tmp_path / "a.h5")) == [f"{names[-1]}/gamma:0"]


def external_link(group):
    group["conv/kernel:0"] = h5py.ExternalLink("other.h5", "/secret")


def external_storage(group):
    group.create_dataset("conv/kernel:0", (2,), "f4", external=[("other.bin", 0, 8)])


def virtual(group):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (2,))
    group.create_virtual_dataset("conv/kernel:0", layout)


@pytest.mark.parametrize("write", [external_link, external_storage, virtual])
def test_refuses_what_leads_to_other_files(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as file:
        file["secret"] = np.ones(2, np.float32)
    np.ones(2, np.float32).tofile("other.bin")
    write_h5(tmp_path / "a.h5", write)
    with pytest.raises(InputError, match=r"a\.h5: refused: conv/kernel:0 is"):
        readers.read(tmp_path / "a.h5")


def strings(group):
    group["conv/kernel:0"] = ["text"]


def nothing(group):
    pass


@pytest.mark.parametrize(
    ("write", "message"), [(strings, "only numbers are read"), (nothing, "lacks conv/kernel:0")]
)
def test_of_another_content(tmp_path, write, message):
    write_h5(tmp_path / "a.h5", write)
    with pytest.raises(InputError, match=message):
        readers.read(tmp_path / "a.h5")


def test_of_another_layout_or_damaged(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["layers"] = np.ones(2)
    with pytest.raises(InputError, match="not a weights file in Keras's legacy layout"):
        readers.read(path)
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])
    with pytest.raises(InputError, match=r"a\.h5: damaged"):
        readers.read(path)


@pytest.mark.parametrize("size", [0, 15])
def test_strings_without_an_end_are_refused(tmp_path, size):
    """HDF5 itself would look for the end of them for ever."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("layer_names", ["a", "b"], dtype=h5py.string_dtype())
        for name in "ab":
            file.create_group(name).attrs.create("weight_names", [], dtype=h5py.string_dtype())
    assert readers.read(path, needed=1 << 20) == {}
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    while data[place : place + 2] != b"\0\0":  # to the free space behind the strings
        length = int.from_bytes(data[place + 8 : place + 16], "little")
        place += 16 + -(-length // 8) * 8
    data[place + 8 : place + 16] = size.to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.h5: refused: a collection of strings in it has no end"):
        readers.read(path, needed=1 << 20)
    path.write_bytes(bytes(data) + (b"GCOL\x01\0\0\0" + (1 << 30).to_bytes(8, "little")) * 20_000)
    with pytest.raises(InputError, match="no end"):  # and soon, however often it is said
        readers.read(path, needed=1 << 20)
