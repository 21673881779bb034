import jax
import numpy as np
import pytest

from srdef import batching
from srdef.errors import InputError


@jax.jit
def scale(factor, x, key):
    return {"scaled": factor * x, "draw": jax.vmap(jax.random.uniform)(key)}


def keys(n):
    return jax.random.split(jax.random.key(0), n)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7, 20])
def test_batches_do_not_change_the_result(batch_size):
    x = np.arange(7.0, dtype=np.float32)
    seen = []
    result = batching.map_batches(scale, (2.0,), (x, keys(7)), batch_size=batch_size, progress=seen.append)
    np.testing.assert_array_equal(result["scaled"], 2 * x)
    np.testing.assert_array_equal(result["draw"], jax.vmap(jax.random.uniform)(keys(7)))
    assert sum(seen) == 7


def test_one_batch_size_is_one_program():
    compiled = []

    @jax.jit
    def function(x):
        compiled.append(x.shape)  # runs only while tracing
        return x

    for count in (10, 4, 3):
        batching.map_batches(function, (), (np.zeros(count),), batch_size=4)
    assert compiled == [(4,)]


def test_nothing_to_do():
    with pytest.raises(InputError, match="no images"):
        batching.map_batches(scale, (1.0,), (np.zeros(0), keys(0)))


def test_lengths_differ():
    with pytest.raises(InputError, match=r"one length, not \[3, 4\]"):
        batching.map_batches(scale, (1.0,), (np.zeros(3), keys(4)))


def test_bad_batch_size():
    with pytest.raises(InputError, match="batch_size"):
        batching.map_batches(scale, (1.0,), (np.zeros(3), keys(3)), batch_size=0)
