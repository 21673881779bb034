"""Numbers that a defense is built with: one line for bad ones, and none for what JAX puts in their place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sample_photographs import photograph

from srdef import defenses
from srdef.errors import InputError

NAN = float("nan")

BAD = [
    *(
        ("bit_depth", {"bits": value})
        for value in (0, 9, 0.5, 2.5, np.int64(9), np.float32(0), NAN, "3", None)
    ),
    *(("jpeg", {"quality": value}) for value in (0, 101, np.int32(0), 75.5, NAN, "75", [75])),
    *(("shield", {"qualities": value}) for value in (75, "75", (), (20, 400), (20, 40.0), None)),
    *(("non_local_means", {"strength": value}) for value in (0, 0.0, -1, np.float32(0), NAN, "0.1")),
    ("non_local_means", {"sigma": -0.1}),
    *(("non_local_means", {"patch_size": value}) for value in (0, -1, 4, 3.0, "3")),
    *(("non_local_means", {"patch_distance": value}) for value in (0, 1.5)),
    *(("resize_pad", {"pad_value": value}) for value in (-0.1, 1.1, 128, NAN, "grey")),
    *(("resize_pad", {"low": value}) for value in (0.9, "1", NAN)),
    *(("resize_pad", {"canvas": value}) for value in (1.0, float("inf"))),
    *(("wavelet", {"sigma": value}) for value in (-0.04, NAN, "0.04", np.array([0.1, -0.1, 0.1]))),
    *(("wavelet", {"levels": value}) for value in (0, 2.0, "2")),
    *(("interpolation", {"factor": value}) for value in (1, 2.0, True, "2", None)),
    *(("median", {"size": value}) for value in (0, 3.0, np.float32(3), "3", (3, 3))),
    *(("total_variation", {"weight": value}) for value in (0, -1, NAN, "0.03")),
    *(("total_variation", {"drop_rate": value}) for value in (1, -0.1, np.float64(1))),
    *(("total_variation", {"iterations": value}) for value in (0, 10.0)),
    *(("pixel_deflection", {"deflections": value}) for value in (0, 100.0, "100")),
    *(("pixel_deflection", {"window": value}) for value in (0, 10.5)),
    ("pixel_deflection", {"sigma": -1}),
]


@pytest.mark.parametrize(("name", "options"), BAD, ids=[f"{name}-{options}" for name, options in BAD])
def test_bad_numbers(name, options):
    (option,) = options
    with pytest.raises(InputError, match=option) as error:
        defenses.create(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bit_depth", {"bits": np.int64(3)}),
        ("bit_depth", {"bits": 3.0}),
        ("bit_depth", {"bits": jnp.int32(3)}),
        ("jpeg", {"quality": np.float32(75)}),
        ("shield", {"qualities": np.array([20, 40])}),
        ("non_local_means", {"strength": jnp.float32(0.05), "patch_distance": np.int32(2)}),
        ("resize_pad", {"pad_value": 0}),
        ("wavelet", {"sigma": 0}),
        ("wavelet", {"sigma": np.array([0.1, 0.2, 0.1], np.float32)}),
        ("interpolation", {"factor": np.int64(3)}),
        ("median", {"size": 2}),
    ],
)
def test_good_numbers(name, options):
    result = defenses.create(name, **options)(jnp.asarray(photograph(0, 12, 10)), jax.random.key(0))
    assert bool(jnp.isfinite(result).all())


@pytest.mark.parametrize(
    "defense",
    [
        defenses.BitDepth(),
        defenses.Jpeg(),
        defenses.NonLocalMeans(patch_distance=1),
        defenses.ResizePad(),
        defenses.Wavelet(),
        defenses.TotalVariation(iterations=2),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_leaves_may_be_anything_inside_jax(defense):
    """Traced, batched and differentiated numbers, whose values are not known, and placeholders for them."""
    image, key = jnp.asarray(photograph(0, 9, 8)), jax.random.key(0)
    many = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), defense)
    results = jax.jit(jax.vmap(lambda defense: defense(image, key)))(many)
    np.testing.assert_array_equal(results[0], results[1])
    shapes = jax.eval_shape(lambda defense: defense(image, key), defense)
    assert results.shape[1:] == shapes.shape
    jax.tree.map(lambda leaf: object(), defense)


def test_a_classifier_does_not_enlarge():
    with pytest.raises(InputError, match="super_resolution: 'squeezenet' is not a super-resolution network"):
        defenses.create("super_resolution", network="squeezenet", pretrained=False)
    with pytest.raises(InputError, match="super_resolution: Linear is not a super-resolution network"):
        defenses.create("paper_released", network=nnx.Linear(3, 3, rngs=nnx.Rngs(0)))
