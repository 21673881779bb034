import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import color

from srdef import images
from srdef.errors import InputError


def random_image(height, width):
    return np.random.default_rng(0).random((height, width, 3), np.float32)


def test_uint8_round_trip_keeps_every_level():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(images.from_uint8(levels)), levels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.full((2, 2, 3), 200, np.uint8), "only floats"),
        (np.ones((2, 2, 3), bool), "only floats"),
        (np.full((2, 2, 3), np.nan, np.float32), "with NaN"),
    ],
)
def test_to_uint8_refuses_what_would_become_other_images(wrong, message):
    with pytest.raises(InputError, match=message):
        images.to_uint8(wrong)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
def test_from_uint8_refuses_other_levels(dtype):
    with pytest.raises(InputError, match=f"8-bit levels must be uint8, not {np.dtype(dtype)}"):
        images.from_uint8(np.full((2, 2, 3), 200, dtype))


def test_to_uint8_clips_and_rounds():
    np.testing.assert_array_equal(
        images.to_uint8(np.array([-1.0, 0.4999 / 255, 0.5001 / 255, 2.0])), [0, 0, 1, 255]
    )


def test_round_to_8_bits_equals_the_file():
    x = random_image(7, 5)
    np.testing.assert_allclose(images.round_to_8_bits(x), images.from_uint8(images.to_uint8(x)), atol=1e-7)


def test_ycbcr_equals_scikit_image():
    x = random_image(9, 11)
    # Values up to 240 in float32: one unit in the last place is 1.5e-5.
    np.testing.assert_allclose(images.rgb_to_ycbcr(x), color.rgb2ycbcr(x.astype(np.float64)), atol=1e-4)
    y = images.rgb_to_ycbcr(x)
    np.testing.assert_allclose(images.ycbcr_to_rgb(y), x, atol=1e-5)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("size", "new"), [((12, 17), (24, 34)), ((40, 31), (13, 16)), ((20, 20), (33, 9))])
def test_resize_equals_pillow(method, size, new):
    """Pillow resizes one float channel ("F" mode) without 8-bit rounding: equal to float precision."""
    x = random_image(*size)
    resampling = Image.Resampling[method.upper()]
    expected = np.stack(
        [np.asarray(Image.fromarray(x[..., c]).resize(new[::-1], resampling)) for c in range(3)], axis=-1
    )
    np.testing.assert_allclose(images.resize(x, *new, method), expected, atol=2e-6)


def test_symmetric_border_is_resizing_the_mirrored_image():
    """MATLAB reflects at the border: the same as the interior of a reflected image."""
    x = random_image(16, 16)
    padded = np.pad(x, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
    inside = images.resize(padded, 16, 16)[4:-4, 4:-4]
    np.testing.assert_allclose(images.resize(x, 8, 8, border="symmetric"), inside, atol=1e-6)


def test_bicubic_halving_uses_matlabs_weights():
    """imresize(x, 1/2) in MATLAB: Keys' kernel, widened by 2, sampled at odd multiples of 1/4."""
    weights = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
    matrix = images.resize_matrix(32, 16, "bicubic", "symmetric")
    np.testing.assert_allclose(matrix[8, 13:21], weights, atol=1e-7)


def test_resize_without_antialias_interpolates():
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None], (8, 8, 3))
    half = images.resize(ramp, 8, 4, "bilinear", antialias=False)
    np.testing.assert_allclose(half[0, :, 0], [0.5, 2.5, 4.5, 6.5], atol=1e-6)


def test_resize_takes_batches_and_has_gradients(rng):
    x = rng.random((2, 6, 6, 3), np.float32)
    one = jnp.stack([images.resize(image, 9, 4) for image in x])
    np.testing.assert_allclose(images.resize(x, 9, 4), one, atol=1e-6)
    gradient = jax.grad(lambda x: images.resize(x, 9, 4).sum())(x)
    # Each output is a weighted mean of inputs, so all gradients sum to the number of outputs.
    np.testing.assert_allclose(gradient.sum(), 2 * 9 * 4 * 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "word"), [({"method": "cubic"}, "bicubic"), ({"border": "edge"}, "symmetric")]
)
def test_resize_names_the_choices(options, word):
    with pytest.raises(InputError, match=word):
        images.resize(np.zeros((4, 4, 3), np.float32), 2, 2, **options)


@pytest.mark.parametrize("side", [0, -1, 2.5, True])
def test_resize_takes_whole_sides(side):
    for height, width, name in ((side, 2, "height"), (2, side, "width")):
        with pytest.raises(InputError, match=f"{name} must be an integer of at least 1"):
            images.resize(np.zeros((4, 4, 3), np.float32), height, width)


@pytest.mark.parametrize("function", [images.luma, images.rgb_to_ycbcr, images.ycbcr_to_rgb])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_colors_have_three_channels(function, channels):
    with pytest.raises(InputError, match="images must have three channels"):
        function(np.zeros((2, 4, 4, channels), np.float32))
