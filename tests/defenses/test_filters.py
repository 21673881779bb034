"""Bit depth, median, non-local means and interpolation against SciPy, scikit-image and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sample_photographs import photograph
from scipy import ndimage
from skimage.restoration import denoise_nl_means

from srdef import defenses
from srdef.errors import InputError
from srdef.programs import jit

KEY = jax.random.key(0)


@jit
def defend(defense, image):
    return defense(image, KEY)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth(bits):
    image = photograph(0, 20, 30)
    result = defend(defenses.BitDepth(bits), image)
    steps = 2**bits - 1
    np.testing.assert_allclose(result, np.rint(image.astype(np.float64) * steps) / steps, atol=1e-6)
    np.testing.assert_array_equal(defend(defenses.BitDepth(bits), result), result)
    through = defenses.BitDepth(bits, gradient="straight_through")
    np.testing.assert_allclose(defend(through, image), result, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: defend(through, x).sum())(jnp.asarray(image)), 1)
    below = defend(defenses.BitDepth(bits, rounding="down"), 0.999 * image)
    np.testing.assert_allclose(below, np.floor(0.999 * image.astype(np.float64) * steps) / steps, atol=1e-6)
    np.testing.assert_array_equal(defend(defenses.BitDepth(8, rounding="down"), image), image)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_median_equals_scipy(size):
    image = photograph(1, 21, 30)
    expected = ndimage.median_filter(image, size=(size, size, 1), mode="reflect")
    np.testing.assert_array_equal(defend(defenses.Median(size), image), expected)


NON_LOCAL_MEANS = [
    {"strength": 0.05, "sigma": 0.0, "patch_size": 3, "patch_distance": 6},
    {"strength": 0.1, "sigma": 0.04, "patch_size": 5, "patch_distance": 4},
]


def noisy(height, width):
    noise = 0.04 * np.random.default_rng(0).standard_normal((height, width, 3))
    return np.clip(photograph(2, height, width) + noise, 0, 1).astype(np.float32)


def non_local_means(image, strength, sigma, patch_size, patch_distance):
    """The definition, pixel by pixel."""
    half = patch_size // 2
    image = image.astype(np.float64)
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="reflect")
    square = np.arange(-half, half + 1) ** 2
    kernel = np.exp(-(square[:, None] + square) / (2 * ((patch_size - 1) / 4) ** 2))[..., None]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (patch_size, patch_size), axis=(0, 1))
    patches = windows.transpose(0, 1, 3, 4, 2)
    result = np.zeros_like(image)
    for y, x in np.ndindex(image.shape[:2]):
        area = tuple(slice(max(i - patch_distance, 0), i + patch_distance + 1) for i in (y, x))
        distance = (kernel * (patches[area] - patches[y, x]) ** 2).mean(axis=-1).sum(
            axis=(-2, -1)
        ) / kernel.sum()
        weight = np.exp(-np.maximum(distance - 2 * sigma**2, 0) / strength**2)[..., None]
        result[y, x] = (weight * image[area]).sum(axis=(0, 1)) / weight.sum()
    return result


@pytest.mark.parametrize("options", NON_LOCAL_MEANS)
def test_non_local_means(options):
    image = noisy(17, 22)
    result = defend(defenses.NonLocalMeans(**options), image)
    np.testing.assert_allclose(result, non_local_means(image, **options), atol=1e-5)
    strength = options["strength"]
    others = {name: value for name, value in options.items() if name != "strength"}
    theirs = denoise_nl_means(
        image.astype(np.float64), h=strength, fast_mode=False, channel_axis=-1, **others
    )
    # scikit-image's exponential is an approximation, good to some percent.
    assert float(np.abs(result - theirs).mean()) < 1e-3


def pillow(image, height, width, method):
    resample = getattr(Image.Resampling, method.upper())
    channels = [Image.fromarray(image[..., c], mode=None).resize((width, height), resample) for c in range(3)]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("order", ["up", "up_down", "down_up"])
def test_interpolation_equals_pillow(method, order):
    image = photograph(3, 30, 41)
    sizes = {"up": [(60, 82)], "up_down": [(60, 82), (30, 41)], "down_up": [(15, 20), (30, 41)]}
    expected = image
    for size in sizes[order]:
        expected = pillow(expected, *size, method)
    result = defend(defenses.Interpolation(method, order), image)
    np.testing.assert_allclose(result, expected, atol=2e-6)  # Pillow's float images are single precision


def test_nearest_up_and_down_is_the_identity():
    image = photograph(3, 30, 41)
    np.testing.assert_array_equal(defend(defenses.Interpolation("nearest", "up_down"), image), image)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bit_depth", {"rounding": "up"}, r"up.*down"),
        ("bit_depth", {"gradient": "soft"}, r"soft.*straight_through"),
        ("non_local_means", {"patch_size": 4}, "odd"),
        ("interpolation", {"method": "cubic"}, r"cubic.*bicubic"),
        ("interpolation", {"order": "down"}, r"down.*down_up"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(InputError, match=words):
        defenses.create(name, **options)
