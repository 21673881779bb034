"""What every registered defense must do: range, types, keys, batches, gradients, channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lowering import lower_for_accelerators
from sample_photographs import photograph

from srdef import defenses, images
from srdef.errors import InputError
from srdef.programs import jit

KEY = jax.random.key(3)


class Enlarge(nnx.Module):
    """A stand-in for a super-resolution network that overshoots [0, 1]."""

    scale = 2

    def __init__(self):
        self.gain = nnx.Param(jnp.float32(1.3))

    def __call__(self, images):
        return self.gain * images.repeat(2, axis=1).repeat(2, axis=2) - 0.1


BANK = defenses.build_bank([images.to_uint8(photograph(index, 40, 40)) for index in range(3)], 300)

# One or more settings of every registered defense, small enough for a test.
CASES = {
    "identity": [{}],
    "super_resolution": [
        {"network": Enlarge()},
        {"network": Enlarge(), "round_to_8_bits": True},
        {"network": Enlarge(), "round_to_8_bits": True, "gradient": "straight_through"},
    ],
    "wavelet": [{}, {"sigma": None, "wavelet": "db2"}, {"method": "VisuShrink", "color": "rgb"}],
    "bit_depth": [{}, {"gradient": "straight_through"}],
    "interpolation": [{}, {"order": "up_down"}, {"order": "down_up", "method": "nearest"}],
    "jpeg": [{}, {"gradient": "straight_through"}, {"gradient": "soft", "chroma": "4:4:4"}],
    "shield": [{}],
    "median": [{}],
    "non_local_means": [{"patch_distance": 2}],
    "resize_pad": [{}, {"method": "bilinear", "low": 1.0}],
    "total_variation": [{"iterations": 10}],
    "pixel_deflection": [{}],
    "quilting": [{"bank": BANK}, {"bank": BANK, "neighbours": 5}],
    "quilting_tvm": [{"bank": BANK}],
    "paper_released": [{"network": Enlarge()}],
}
SETTINGS = [
    pytest.param(name, options, id=f"{name}{number or ''}")
    for name, settings in CASES.items()
    for number, options in enumerate(settings)
]
each_defense = pytest.mark.parametrize(("name", "options"), SETTINGS)


def test_every_defense_is_tested():
    assert set(CASES) == set(defenses.list_names())


@jit
def defend(defense, image, key):
    return defense(image, key)


@jit
def gradient(defense, image, key):
    """Of a sum with varied weights, so that nothing cancels."""

    def loss(image):
        result = defense(image, key)
        weights = jnp.sin(jnp.arange(result.size, dtype=jnp.float32)).reshape(result.shape)
        return jnp.sum(weights * result)

    return jax.grad(loss)(image)


def check_range(image):
    assert image.dtype == jnp.float32
    assert image.ndim == 3
    assert image.shape[-1] == 3
    assert bool(jnp.isfinite(image).all())
    assert float(image.min()) >= 0
    assert float(image.max()) <= 1


def check_size(name, options, result, height, width):
    if name == "resize_pad":  # a canvas larger than the image, by its own tests
        assert result.shape[0] >= height
        assert result.shape[1] >= width
        return
    enlarges = "network" in options or (name == "interpolation" and options.get("order", "up") == "up")
    factor = 2 if enlarges else 1
    assert result.shape == (factor * height, factor * width, 3)


@each_defense
@pytest.mark.parametrize("size", [(24, 20), (17, 31), (1, 13), (13, 1)])
def test_range_and_size(name, options, size):
    result = defend(defenses.create(name, **options), photograph(0, *size), KEY)
    check_range(result)
    check_size(name, options, result, *size)


@pytest.mark.parametrize("name", CASES)
def test_jit_changes_nothing(name):
    defense = defenses.create(name, **CASES[name][0])
    image = jnp.asarray(photograph(0, 24, 20))
    difference = np.abs(defend(defense, image, KEY) - defense(image, KEY))
    # Rounding differs with fusion; a few values may then go to the next of 256 levels.
    assert difference.max() < (2e-5 if defense.differentiable else 1.01 / 255)
    assert difference.mean() < 2e-4


@pytest.mark.parametrize("name", CASES)
def test_lowers_for_accelerators(name):
    defense = defenses.create(name, **CASES[name][0])
    image = photograph(0, 24, 20)

    def loss(image, key):
        return jnp.sum(defense(image, key))

    function = jax.grad(loss) if defense.differentiable else loss
    lower_for_accelerators(lambda images, key: jax.vmap(function, (0, None))(images, key), image[None], KEY)


@each_defense
def test_batch_and_order_change_nothing(name, options):
    defense = defenses.create(name, **options)
    images = np.stack([photograph(i, 24, 20) for i in range(5)])
    together = defenses.apply(defense, images, key=KEY)
    order = np.array([3, 1, 4])
    apart = defenses.apply(defense, images[order], key=KEY, ids=order, batch_size=2)
    np.testing.assert_allclose(apart, together[order], atol=1e-6)


@each_defense
def test_random_as_declared(name, options):
    defense = defenses.create(name, **options)
    image = photograph(0, 24, 20)
    first = defend(defense, image, KEY)
    np.testing.assert_array_equal(defend(defense, image, KEY), first)
    differs = any(
        not np.array_equal(defend(defense, image, jax.random.key(seed)), first) for seed in (10, 11, 12)
    )
    assert differs == defense.random


@each_defense
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_images(name, options, value):
    defense = defenses.create(name, **options)
    image = jnp.full((24, 20, 3), value)
    check_range(defend(defense, image, KEY))
    assert bool(jnp.isfinite(gradient(defense, image, KEY)).all())


@each_defense
def test_gradient_as_declared(name, options):
    defense = defenses.create(name, **options)
    slope = gradient(defense, jnp.asarray(photograph(0, 24, 20)), KEY)
    assert bool(jnp.isfinite(slope).all())
    assert bool((slope != 0).any()) or not defense.differentiable


@each_defense
def test_gradient_of_an_image_one_pixel_wide_is_finite(name, options):
    defense = defenses.create(name, **options)
    assert bool(jnp.isfinite(gradient(defense, jnp.asarray(photograph(0, 9, 1)), KEY)).all())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("identity", {}),
        ("bit_depth", {}),
        ("interpolation", {"method": "nearest", "order": "down_up"}),
        ("wavelet", {"mode": "hard", "method": "VisuShrink", "color": "rgb", "sigma": 0.02}),
    ],
)
def test_idempotent(name, options):
    defense = defenses.create(name, **options)
    once = defend(defense, photograph(0, 24, 20), KEY)
    np.testing.assert_allclose(defend(defense, once, KEY), once, atol=2e-6)  # a transform and its inverse


# Numbers of channels that are not taken: patches of a bank are coloured, and colours are converted.
COLOURED = ("jpeg", "shield", "wavelet", "pixel_deflection", "paper_released")
REFUSED = {"quilting": (1, 4), "quilting_tvm": (1, 4), **dict.fromkeys(COLOURED, (4,))}


@pytest.mark.parametrize("channels", [1, 4])
@each_defense
def test_takes_any_number_of_channels_or_says_that_it_does_not(name, options, channels):
    pixels = photograph(2, 24, 20)[..., np.arange(channels) % 3][None]
    defense = defenses.create(name, **options)
    if channels in REFUSED.get(name, ()) and options.get("color") != "rgb":
        with pytest.raises(InputError, match=rf"takes RGB images, and not of {channels} channels"):
            defenses.apply(defense, pixels, key=KEY)
        return
    result = defenses.apply(defense, pixels, key=KEY)
    assert result.shape[-1] == channels
    assert np.isfinite(result).all()
    if channels == 1 and not defense.random and name not in ("jpeg", "super_resolution", "paper_released"):
        alike = defense.replace(color="rgb") if name == "wavelet" else defense
        colours = defenses.apply(alike, pixels.repeat(3, axis=-1), key=KEY)
        np.testing.assert_allclose(result, colours[..., 1:2], atol=1e-6)
