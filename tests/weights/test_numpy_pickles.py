import pickle

import numpy as np
import pytest

from srdef.errors import InputError
from srdef.weights import readers


def write(path, content, protocol=3):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays(tmp_path, protocol, dtype):
    rng = np.random.default_rng(0)
    content = {
        "a": [rng.normal(size=(2, 3)).astype(dtype), np.asfortranarray(rng.normal(size=(3, 2)).astype(dtype))]
    }
    content["b"] = rng.normal(size=4).astype(dtype)
    tensors = readers.read(write(tmp_path / "a.pkl", content, protocol))
    assert list(tensors) == ["a/0", "a/1", "b"]
    for name, expected in zip(tensors, [*content["a"], content["b"]], strict=True):
        assert tensors[name].dtype == dtype
        np.testing.assert_array_equal(tensors[name], expected)


def test_arrays_within_other_dictionaries(tmp_path):
    content = {"epoch": 3, "model": {"state_dict": {"a": np.ones(2, np.float32)}}}
    assert list(readers.read(write(tmp_path / "a.pkl", content))) == ["a"]


class Harmful:
    def __reduce__(self):
        return eval, ("1 + 1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Harmful()}, r"refused: it asks for the global builtins\.eval"),
        ([np.zeros(2)], "holds a list, not a dictionary of arrays"),
        ({"a": 1}, "holds more than arrays: a"),
        ({"a": np.zeros(2, np.int32)}, "only floating point is read"),
        ({"a": np.zeros(2, ">f4")}, "big-endian"),
        ({"a": np.array([None])}, "only floating point is read"),
    ],
)
def test_anything_else_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        readers.read(write(tmp_path / "a.pkl", content))


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "a.pkl", {"a": np.zeros(100)})
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"a\.pkl: damaged"):
        readers.read(path)
