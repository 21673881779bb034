"""Wavelet denoising against scikit-image and PyWavelets."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
from sample_photographs import photograph
from skimage import color
from skimage.restoration import denoise_wavelet

from srdef import defenses
from srdef.defenses import wavelet_transform
from srdef.errors import InputError

KEY = jax.random.key(0)


@jax.jit
def denoise(defense, image):
    return defense(image, KEY)


def reference(image, **options):
    """scikit-image in double precision, where no coefficient is on the wrong side of a threshold."""
    ycbcr = options.pop("convert2ycbcr", True)
    result = denoise_wavelet(image.astype(np.float64), convert2ycbcr=ycbcr, channel_axis=-1, **options)
    return np.clip(result, 0, 1)


@pytest.mark.parametrize("transform", wavelet_transform.TRANSFORMS)
@pytest.mark.parametrize("wavelet", ["db1", "db2", "sym4"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (51, 67), (9, 40)])
def test_transform_equals_pywavelets(wavelet, height, width, transform):
    decompose, reconstruct = wavelet_transform.TRANSFORMS[transform]
    decompose = jax.jit(decompose, static_argnums=(1, 2))
    reconstruct = jax.jit(reconstruct, static_argnums=2)
    image = np.random.default_rng(0).random((3, height, width)).astype(np.float32)
    approximation, details = decompose(image, wavelet, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the small image is below the deepest useful level
        expected = pywt.wavedec2(image.astype(np.float64), wavelet, level=3, axes=(-2, -1))
    # Single precision: sums of a few products of numbers below 10.
    np.testing.assert_allclose(approximation, expected[0], atol=1e-5)
    for level, expected_level in zip(details, expected[:0:-1], strict=True):
        for band, expected_band in zip(level, expected_level, strict=True):
            np.testing.assert_allclose(band, expected_band, atol=1e-5)
    back = reconstruct(approximation, details, wavelet)[:, :height, :width]
    np.testing.assert_allclose(back, image, atol=1e-5)


@pytest.mark.parametrize("method", ["BayesShrink", "VisuShrink"])
@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize(("wavelet", "size"), [("db1", (160, 160)), ("db2", (101, 75)), ("sym4", (96, 121))])
def test_equals_scikit_image(wavelet, size, method, mode):
    image = photograph(0, *size)
    result = denoise(defenses.Wavelet(wavelet=wavelet, method=method, mode=mode), image)
    expected = reference(image, sigma=0.04, wavelet=wavelet, method=method, mode=mode)
    # Single against double precision; 3e-6 is what is seen.
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("index", range(1, 7))
def test_equals_scikit_image_at_the_papers_size(index):
    image = photograph(index, 299, 299)
    result = denoise(defenses.Wavelet(sigma=0.04), image)
    np.testing.assert_allclose(result, reference(image, sigma=0.04), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected_options"),
    [
        ({"color": "rgb"}, {"convert2ycbcr": False, "sigma": 0.04}),
        ({"levels": 2, "sigma": 0.1}, {"wavelet_levels": 2, "sigma": 0.1}),
        ({"sigma": None}, {"sigma": None}),
        ({"sigma": None, "color": "rgb"}, {"sigma": None, "convert2ycbcr": False}),
    ],
)
def test_options_equal_scikit_image(options, expected_options):
    # Noise and even sizes make the estimate of sigma well defined: otherwise there are many coefficients
    # that are zero up to rounding, and scikit-image's own result differs with the precision.
    noise = 0.03 * np.random.default_rng(1).standard_normal((90, 100, 3))
    image = np.clip(0.2 + 0.6 * photograph(2, 90, 100) + noise, 0, 1).astype(np.float32)
    assert image.min() > 0
    assert image.max() < 1
    result = denoise(defenses.Wavelet(**options), image)
    np.testing.assert_allclose(result, reference(image, **expected_options), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.04, None])
def test_gray_images_equal_scikit_image(sigma):
    noise = 0.03 * np.random.default_rng(1).standard_normal((90, 100, 1))
    image = np.clip(0.2 + 0.6 * photograph(2, 90, 100)[..., :1] + noise, 0, 1).astype(np.float32)
    result = denoise(defenses.Wavelet(sigma=sigma), image)
    expected = reference(image, sigma=sigma, convert2ycbcr=False)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def channel_sigma(image, sigma):
    """scikit-image before 0.16: sigma is used on the scaled channels as it is (db1, soft, BayesShrink)."""
    out = color.rgb2ycbcr(image.astype(np.float64))
    levels = max(pywt.dwtn_max_level(image.shape[:2], "db1") - 3, 1)
    for c in range(3):
        low, high = out[..., c].min(), out[..., c].max()
        coefficients = pywt.wavedec2((out[..., c] - low) / (high - low), "db1", level=levels)
        shrunk = [coefficients[0]]
        for level in coefficients[1:]:
            thresholds = [sigma**2 / np.sqrt(max((d * d).mean() - sigma**2, 2.2e-16)) for d in level]
            shrunk.append(tuple(pywt.threshold(d, t) for d, t in zip(level, thresholds, strict=True)))
        denoised = pywt.waverec2(shrunk, "db1")[: image.shape[0], : image.shape[1]]
        out[..., c] = denoised * (high - low) + low
    return np.clip(color.ycbcr2rgb(out), 0, 1)


@pytest.mark.parametrize("size", [(160, 160), (75, 101)])
@pytest.mark.parametrize("sigma", [0.01, 0.04])
def test_channel_scaling_equals_transcription(size, sigma):
    image = photograph(3, *size)
    result = denoise(defenses.Wavelet(sigma=sigma, sigma_scaling="channel"), image)
    np.testing.assert_allclose(result, channel_sigma(image, sigma), atol=1e-5)


def test_the_two_meanings_of_sigma_differ():
    image = photograph(3, 160, 160)
    rescaled = denoise(defenses.Wavelet(), image)
    channel = denoise(defenses.Wavelet(sigma_scaling="channel"), image)
    assert 1 < 255 * float(jnp.abs(rescaled - channel).mean()) < 4


def test_jaxwt_gives_the_same_image():
    image = photograph(0, 101, 75)
    ours, theirs = (denoise(defenses.Wavelet(transform=name), image) for name in ("polyphase", "jaxwt"))
    # Two orders of summation of numbers below 10, in single precision.
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_sweep_over_sigma_compiles_once():
    image = jnp.asarray(photograph(0, 32, 32))
    denoise.clear_cache()
    for sigma in (0.01, 0.02, 0.04):
        denoise(defenses.Wavelet(sigma=sigma), image)
    assert denoise._cache_size() == 1


@pytest.mark.parametrize("sigma", [0.04, None])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
def test_tiny_images(sigma, size):
    image = photograph(0, *size)
    result = denoise(defenses.Wavelet(sigma=sigma, wavelet="sym4"), image)
    assert result.shape == image.shape
    assert bool(jnp.isfinite(result).all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wavelet": "db99"}, "db99.*haar"),
        ({"wavelet": "bior2.2"}, "bior2.2.*haar"),
        ({"method": "SureShrink"}, "SureShrink.*BayesShrink"),
        ({"mode": "firm"}, "firm.*soft"),
        ({"color": "lab"}, "lab.*ycbcr"),
        ({"sigma_scaling": "old"}, "old.*channel"),
        ({"levels": 0}, "levels"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        defenses.create("wavelet", **options)
