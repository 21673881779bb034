import hashlib
import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from srdef.errors import InputError
from srdef.weights import readers

FORMATS = {"zip": True, "legacy": False}


@pytest.fixture(params=FORMATS)
def save(request, tmp_path):
    """Write something with torch.save, in each of its two formats; returns the path."""

    def save(content):
        path = tmp_path / "weights.pth"
        torch.save(content, path, _use_new_zipfile_serialization=FORMATS[request.param])
        return path

    return save


def equal(path, tensors):
    found = readers.read(path)
    assert sorted(found) == sorted(tensors)
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        if tensor.dtype == torch.bfloat16:
            assert found[name].dtype == ml_dtypes.bfloat16
            tensor, array = tensor.float(), found[name].astype(np.float32)
        else:
            array = found[name]
            assert array.dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(array, tensor.numpy())


TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_types(save, dtype):
    # Odd numbers of bytes before and between, so that nothing is aligned by luck.
    tensors = {"a": torch.arange(-3, 4).to(dtype), "b": torch.tensor(1).to(dtype)}
    equal(save(tensors), tensors)


def test_views(save):
    """Transposed, strided, offset, expanded and empty tensors; several of one storage."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "strided": base[:, ::2, 1::2],
        "row": base[1, 2],
        "scalar": base[1, 1, 1],
        "expanded": base[0, 0, :, None].expand(4, 5),
        "empty": torch.zeros(0, 3),
        "part of an empty one": torch.zeros(4, 0)[2:],
    }
    equal(save(tensors), tensors)


def test_a_tensor_that_is_stored_with_the_other_sign_is_refused(save):
    """PyTorch negates it when it is read."""
    negative = torch.conj(torch.tensor([1 + 2j])).imag
    assert negative.tolist() == [-2.0]
    with pytest.raises(InputError, match=r"weights\.pth: a tensor whose sign .* resolve_neg\(\)"):
        readers.read(save({"a": negative}))
    equal(save({"a": negative.resolve_neg()}), {"a": torch.tensor([-2.0])})


def test_state_dict_and_parameters(save):
    """A network's `state_dict` (with its metadata) and parameters, which are wrapped tensors."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    equal(save(network.state_dict()), network.state_dict())
    parameters = OrderedDict(network.named_parameters())
    equal(save(parameters), {name: value.detach() for name, value in parameters.items()})


NESTED = {
    "averaged before last": lambda ema, last: {"params": last, "params_ema": ema},
    "last alone": lambda ema, last: {"params": ema},
    "beside a trainer's things": lambda ema, last: {"epoch": 3, "state_dict": ema, "optimizer": {"lr": 0.1}},
    "a checkpoint of PyTorch's tutorials": lambda ema, last: {"epoch": 3, "model_state_dict": ema},
    "model": lambda ema, last: {"model": ema, "optimizer": {"state": {0: {"step": 1}}, "param_groups": []}},
    "module of an average": lambda ema, last: {"ema": {"module": ema, "updates": 5}, "date": "today"},
    "an average alone": lambda ema, last: {"ema": ema},
    "last before an average without BasicSR": lambda ema, last: {"ema": last, "model": ema},
    "state_dict before model": lambda ema, last: {"model": {"name": "net"}, "state_dict": ema},
    "nested twice": lambda ema, last: {"state_dict": {"params": last, "params_ema": ema}},
    "a tensor of that name": lambda ema, last: {**ema, "params": torch.ones(2)},
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
def test_weights_beside_other_things(save, make):
    """As trainers save them; which is taken where there are several says `containers.NESTED`."""
    ema = OrderedDict({"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.5])})
    last = {name: -tensor for name, tensor in ema.items()}
    content = make(ema, last)
    equal(save(content), content if "a.bias" in content else ema)


def test_nothing_but_other_things(save):
    with pytest.raises(InputError, match=r"weights\.pth: holds more than tensors: epoch, optimizer"):
        readers.read(save({"epoch": 3, "optimizer": {"lr": 0.1}}))


def test_a_file_of_any_name_and_pickle_protocol(tmp_path):
    tensors = {"a": torch.arange(3.0)}
    for protocol in (2, 4):
        for zipped in FORMATS.values():
            path = tmp_path / "folder.in.name.pt"
            torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
            equal(path, tensors)


class Attack:
    """Unpickling it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_runs_a_command_is_refused(save, tmp_path):
    trace = tmp_path / "trace"
    path = save({"a": torch.zeros(2), "b": Attack(f"touch {trace}")})
    with pytest.raises(InputError, match=r"weights\.pth: refused.* global (posix|nt)\.system"):
        readers.read(path)
    assert not trace.exists()
    with path.open("rb") as file:  # that the file does what it is said to do
        torch.load(file, weights_only=False)
    assert trace.exists()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (b"cbuiltins\neval\n(V1+1\ntR.", "builtins.eval"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"ctorch\nload\n.", "torch.load"),
        (b"ctorch._utils\n_rebuild_tensor\n.", "torch._utils._rebuild_tensor"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"\x80\x04\x8c\x0bcollections\x8c\x12OrderedDict.update\x93.", "collections.OrderedDict.update"),
    ],
)
def test_other_globals_are_refused(tmp_path, code, name):
    with pytest.raises(InputError, match=rf"refused: it asks for the global {re.escape(name)},"):
        readers.read(zipped(tmp_path, code))


def zipped(folder, code, storages=None):
    """A zip file as torch.save writes it, with this pickle."""
    path = folder / "hand_made.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hand_made/data.pkl", code)
        for key, data in (storages or {}).items():
            archive.writestr(f"hand_made/data/{key}", data)
    return path


STORAGE = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"
TENSOR = b"(Va\nctorch._utils\n_rebuild_tensor_v2\n(%b%b(I2\nt(I1\ntI00\nNtRd."


@pytest.mark.parametrize(
    ("code", "message"),
    [
        # A tensor that begins at -1, one that begins at 3 of 4, one without a storage.
        (TENSOR % (STORAGE, b"I-1\n"), "impossible"),
        (TENSOR % (STORAGE, b"I3\n"), "beyond its storage"),
        (TENSOR % (b"I7\n", b"I0\n"), "no storage"),
        # A storage of the wrong length, of no known type, and one that is called like a function.
        (TENSOR % (STORAGE.replace(b"I4", b"I5"), b"I0\n"), "4 elements, expected 5"),
        (TENSOR % (STORAGE.replace(b"FloatStorage", b"Storage"), b"I0\n"), "torch.Storage"),
        (TENSOR % (STORAGE.replace(b"Vstorage", b"Vmodule"), b"I0\n"), "persistent id"),
        (TENSOR % (STORAGE.replace(b"V0", b"V1"), b"I0\n"), "it lacks hand_made/data/1"),
        (b"ctorch\nFloatStorage\n(tR.", "refused: it calls a _StorageType"),
        # The instruction that makes an object of a class.
        (b"(Vx\nios\nsystem\n.", "refused: the instruction INST"),
        # A pickle that sets attributes of what the reader made.
        (b"ctorch\nFloatStorage\n(Vdtype\nVf8\ndb.", "gives a state"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(N(Vx\nI1\ndtb.", "gives a state"),
        (b"ccollections\nOrderedDict\n(Vx\nI1\ndb.", "gives a state"),
        # What is not a dictionary of tensors.
        (b"I5\n.", "holds a int"),
        (b"(Vepoch\nI5\nd.", "more than tensors: epoch"),
    ],
)
def test_impossible_content(tmp_path, code, message):
    with pytest.raises(InputError, match=message):
        readers.read(zipped(tmp_path, code, {"0": np.arange(4.0, dtype="f4").tobytes()}))


def test_the_hand_made_file_is_read_when_it_is_right(tmp_path):
    """Otherwise the refusals above would prove nothing."""
    path = zipped(tmp_path, TENSOR % (STORAGE, b"I2\n"), {"0": np.arange(4.0, dtype="f4").tobytes()})
    np.testing.assert_array_equal(readers.read(path)["a"], [2, 3])


def test_truncated_and_garbage_files(save, tmp_path):
    data = save({"a": torch.arange(100.0), "b": torch.arange(7)}).read_bytes()
    path = tmp_path / "short.pth"
    for length in (0, 1, 5, 30, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"short\.pth"):
            readers.read(path)
    generator = np.random.default_rng(0)
    for _ in range(50):
        path.write_bytes(generator.bytes(200))
        with pytest.raises(InputError, match=r"short\.pth"):
            readers.read(path)


def test_flipped_bytes_never_escape_as_another_error(save, tmp_path):
    data = bytearray(save({"a": torch.arange(4.0), "b": torch.arange(7)}).read_bytes())
    generator = np.random.default_rng(0)
    path = tmp_path / "flipped.pth"
    refused = 0
    for _ in range(300):
        flipped = data.copy()
        flipped[generator.integers(min(len(data), 900))] = generator.integers(256)
        path.write_bytes(flipped)
        try:
            readers.read(path)
        except InputError:
            refused += 1
    assert refused > 30


def test_a_big_endian_file_is_refused(tmp_path):
    """Of the legacy format, as a pickle of PyTorch's three headers."""
    path = tmp_path / "big.pt"
    headers = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": False}]
    path.write_bytes(b"".join(pickle.dumps(header, 2) for header in headers))
    with pytest.raises(InputError, match="big-endian"):
        readers.read(path)


def test_bfloat16_and_float32_safetensors(tmp_path):
    tensors = {"a": torch.arange(5.0).to(torch.bfloat16), "b": torch.eye(3), "c": torch.tensor(7)}
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    equal(path, tensors)


def test_npz(tmp_path):
    path = tmp_path / "weights.npz"
    arrays = {"a.kernel": np.arange(6.0, dtype="f4").reshape(2, 3), "b": np.arange(3)}
    np.savez(path, **arrays)
    found = readers.read(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_an_npz_with_objects_is_refused(tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.array([Attack(f"touch {trace}")], dtype=object))
    with pytest.raises(InputError, match=r"weights\.npz: refused: a\.npy has the type object"):
        readers.read(path)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_a_file_that_is_something_else(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    other = io.BytesIO()
    np.save(other, np.zeros(3))
    for data in (b"", b"not weights", struct.pack("<q", 2**60), other.getvalue()):
        path.write_bytes(data)
        with pytest.raises(InputError, match="weights file"):
            readers.read(path)


def test_a_file_that_needs_more_than_the_network(tmp_path):
    """Eight times the network's bytes and 16 MiB more, packed or not."""
    path = tmp_path / "weights.npz"
    array = np.zeros(5_000_000, np.float32)
    for save in (np.savez, np.savez_compressed):
        save(path, a=array)
        assert list(readers.read(path, needed=1_000_000)) == ["a"]
        with pytest.raises(InputError, match=r"bytes.*, and at most 16777224 are expected"):
            readers.read(path, needed=1)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "weights.npz")
    with pytest.raises(InputError, match=r"weights\.npz: not a file but a pipe or a device"):
        readers.read(tmp_path / "weights.npz")


def test_control_characters_of_a_file(tmp_path):
    path = zipped(tmp_path, b"(V\\u001b[31mred\\u000a\nI5\nd.")
    with pytest.raises(InputError, match=r"holds more than tensors: \\x1b\[31mred\\n$"):
        readers.read(path)


def test_three_of_many_other_things_are_named(save):
    with pytest.raises(InputError, match=r"more than tensors: 0, 1, 2 and 97 more$"):
        readers.read(save({str(i): i for i in range(100)}))


def test_missing_file_and_unknown_kind(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth: cannot be read \(No such file"):
        readers.read(tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"weights\.h6: unknown kind; choose from: \.safetensors, \.npz"):
        readers.read(tmp_path / "weights.h6")


def test_hash(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, a=np.zeros(3))
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(readers.read(path, sha256=right)) == ["a"]
    wrong = "0" * 64
    with pytest.raises(InputError, match=rf"weights\.npz: SHA-256 is {right}, expected {wrong}"):
        readers.read(path, sha256=wrong)
