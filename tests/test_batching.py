import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from srdef import batching
from srdef.errors import InputError, OutOfMemoryError


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


@pytest.mark.parametrize("batch_size", [None, 3, 7])
def test_results_may_stay_on_the_device(batch_size):
    x = np.arange(7.0, dtype=np.float32)
    host, device = (
        batching.map_batches(scale, (2.0,), (x, keys(7)), batch_size=batch_size, on_device=on_device)
        for on_device in (False, True)
    )
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(device))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
    jax.tree.map(np.testing.assert_array_equal, host, device)
    # And be the arguments of the next program, also where they do not fill a batch.
    again = batching.map_batches(scale, (0.5,), (device["scaled"], keys(7)), batch_size=4)
    np.testing.assert_array_equal(again["scaled"], x)


def test_the_next_batch_is_computed_before_the_last_is_fetched_and_two_are_alive():
    results, alive = [], []

    def function(x):
        result = jnp.sin(x)
        results.append(weakref.ref(result))
        alive.append(sum(found() is not None for found in results))
        return result

    x = np.arange(20.0, dtype=np.float32)
    result = batching.map_batches(function, (), (x,), batch_size=4)
    np.testing.assert_array_equal(result, jnp.sin(x))
    assert alive == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("batch_size", [None, 16])
def test_results_are_no_part_of_the_arguments(batch_size):
    x = np.zeros((64, 64), np.float32)
    result = batching.map_batches(jax.jit(lambda x: x), (), (x,), batch_size=batch_size)
    x[:] = 1
    assert not result.any()


def test_one_batch_size_is_one_program():
    compiled = []

    @jax.jit
    def function(x):
        compiled.append(x.shape)  # runs only while tracing
        return x

    for count in (10, 4, 3):
        batching.map_batches(function, (), (np.zeros(count),), batch_size=4)
    assert compiled == [(4,)]


def test_without_a_batch_size_few_images_are_one_batch_and_many_are_equal_ones():
    assert batching.settled_batch_size(7, 1000, (224, 224, 3)) == 7
    mesh = batching.data_mesh(jax.devices("cpu")[:1])
    sizes = {
        (20, (224, 224, 3)): 20,
        (100, (224, 224, 3)): 25,  # 2^22 numbers are 27 such images: four batches
        (1000, (32, 32, 3)): 1000,
        (3000, (32, 32, 3)): 1000,
        (3, (5000, 5000, 3)): 1,
        (0, (8, 8, 3)): 0,
    }
    for (count, shape), size in sizes.items():
        assert batching.settled_batch_size(None, count, shape, mesh) == size
    seen = []
    x = np.ones((3000, 32, 32, 3), np.float32)
    batching.map_batches(jax.jit(lambda x: x), (), (x,), mesh=mesh, progress=seen.append)
    assert seen == [1000] * 3


def test_nothing_to_do():
    with pytest.raises(InputError, match="no images"):
        batching.map_batches(scale, (1.0,), (np.zeros(0), keys(0)))


def test_lengths_differ():
    with pytest.raises(InputError, match=r"one length, not \[3, 4\]"):
        batching.map_batches(scale, (1.0,), (np.zeros(3), keys(4)))


def test_bad_batch_size():
    with pytest.raises(InputError, match="batch_size"):
        batching.map_batches(scale, (1.0,), (np.zeros(3), keys(3)), batch_size=0)


@jax.jit
def greedy(x):
    """Takes 16 TiB for each number."""
    return jnp.cumsum(jnp.sin(jnp.arange(2.0**42) + x[:, None]), axis=1)[:, -1]


@pytest.mark.parametrize(
    ("count", "advice"), [(7, "try batch_size=3"), (1, "smaller images or networks need less")]
)
def test_too_large_a_batch_is_one_line(count, advice):
    with pytest.raises(OutOfMemoryError) as caught:
        batching.map_batches(greedy, (), (np.zeros(count, np.float32),))
    message = str(caught.value)
    assert message.startswith(f"not enough memory for batches of {count} images (Out of memory allocating ")
    assert message.endswith(advice)
    assert "\n" not in message
    assert isinstance(caught.value, MemoryError)


def test_other_errors_of_the_device_are_not_taken_for_that():
    def fails(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        batching.map_batches(fails, (), (np.zeros(3),))
