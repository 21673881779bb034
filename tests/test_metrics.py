"""Rates and intervals against SciPy, ROC-AUC against scikit-learn, PSNR and SSIM against scikit-image."""

import math

import numpy as np
import pytest
import scipy.stats
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import roc_auc_score

from srdef import metrics
from srdef.errors import InputError


@pytest.mark.parametrize("total", [1, 2, 18, 500, 5000])
@pytest.mark.parametrize("share", [0.0, 0.07, 0.5, 0.999, 1.0])
def test_wilson_interval_is_scipys(total, share):
    successes = round(share * total)
    expected = scipy.stats.binomtest(successes, total).proportion_ci(method="wilson")
    # Both are the closed form in float64; a few roundings apart.
    np.testing.assert_allclose(metrics.wilson_interval(successes, total), expected, rtol=1e-12, atol=1e-15)


def test_wilson_interval_known_values():
    """10 of 10: the lower end is n / (n + z²), 0.7225."""
    low, high = metrics.wilson_interval(10, 10)
    assert low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-7)
    assert high == 1
    assert metrics.wilson_interval(0, 10) == (0, pytest.approx(1 - low))


def test_nothing_is_known_of_no_images():
    assert metrics.wilson_interval(0, 0) == (0, 1)
    found = metrics.rate(np.zeros(0, bool))
    assert (found.successes, found.total, found.low, found.high) == (0, 0, 0, 1)
    assert math.isnan(found.value)


@pytest.mark.parametrize(("successes", "total"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts(successes, total):
    with pytest.raises(InputError, match="is not a proportion"):
        metrics.wilson_interval(successes, total)


def test_accuracy_after_defense_counts_only_clean_correct_images():
    clean_correct = np.array([True, True, True, True, False, False])
    correct = np.array([True, False, True, True, True, False])
    found = metrics.accuracy_after_defense(clean_correct, correct)
    assert (found.successes, found.total, found.value) == (3, 4, 0.75)
    assert metrics.rate(correct).value == pytest.approx(4 / 6)
    assert (found.low, found.high) == metrics.wilson_interval(3, 4)


def test_masks_are_checked():
    with pytest.raises(InputError, match="correct must be a boolean array"):
        metrics.accuracy_after_defense(np.ones(3, bool), np.ones(3, int))
    with pytest.raises(InputError, match="has 3 images and correct 2"):
        metrics.accuracy_after_defense(np.ones(3, bool), np.ones(2, bool))


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a = rng.random((3, 20, 17, 3), np.float32)
    return a, np.clip(a + rng.normal(0, 0.05, a.shape), 0, 1).astype(np.float32)


def test_psnr_is_scikit_images(pair):
    a, b = pair
    expected = [
        peak_signal_noise_ratio(a[i].astype(float), b[i].astype(float), data_range=1) for i in range(3)
    ]
    np.testing.assert_allclose(metrics.psnr(a, b), expected, rtol=1e-12)
    assert metrics.psnr(a[0], b[0]) == pytest.approx(expected[0])


def test_psnr_of_luma_without_border(pair):
    a, b = (images[0, 2:-2, 2:-2].astype(float) for images in pair)
    y_a, y_b = rgb2ycbcr(a)[..., 0], rgb2ycbcr(b)[..., 0]
    expected = peak_signal_noise_ratio(y_a, y_b, data_range=255)
    # The luma is computed in float32.
    assert metrics.psnr(pair[0][0], pair[1][0], border=2, luma=True) == pytest.approx(expected, abs=1e-4)


def test_psnr_closed_forms():
    black = np.zeros((8, 8, 3), np.float32)
    assert metrics.psnr(black, black) == np.inf
    assert metrics.psnr(black, black + np.float32(0.1)) == pytest.approx(20, abs=1e-5)
    framed = black.copy()
    framed[0] = framed[:, -1] = 1
    assert metrics.psnr(black, framed, border=1) == np.inf
    assert metrics.psnr(black, framed) < 10


def test_psnr_bad_input(pair):
    a, b = pair
    with pytest.raises(InputError, match="different shapes"):
        metrics.psnr(a, b[:1])
    with pytest.raises(InputError, match="border 9 leaves nothing of 20x17"):
        metrics.psnr(a, b, border=9)


def eight_bits(a):
    return np.rint(255 * a).astype(np.uint8)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (eight_bits, r"floats in \[0, 1\], not uint8; divide 8-bit images by 255"),
        (lambda a: a > 0.5, "not bool"),
        (lambda a: 255 * a, r"must lie in \[0, 1\]; image \d holds"),
        (lambda a: np.where(a > 0.9, np.nan, a), "holds nan"),
        (lambda a: a[..., 0], "must have the shape"),
        (lambda a: a[:0], "there are no images"),
    ],
)
def test_metrics_take_the_images_that_everything_takes(pair, metric, change, message):
    """Whichever argument it is; 8-bit images would wrap around in their difference."""
    with pytest.raises(InputError, match=message):
        metric(change(pair[0]), change(pair[1]))
    if change(pair[0]).shape == pair[0].shape:
        with pytest.raises(InputError, match=f"first argument: .*{message}"):
            metric(change(pair[0]), pair[1])
        with pytest.raises(InputError, match=f"second argument: .*{message}"):
            metric(pair[0], change(pair[1]))


def test_psnr_of_8_bit_images_divided_by_255():
    """A difference of about three levels is 38 dB, not the -10 dB of numbers that wrap around."""
    rng = np.random.default_rng(0)
    a = rng.integers(10, 245, (16, 16, 3))
    b = a + np.where(rng.random(a.shape) < 0.5, 3, -3)
    found = metrics.psnr(a / 255, b / 255)
    assert found == pytest.approx(20 * math.log10(255 / 3))
    assert 38 < found < 39


def scikit_image_ssim(a, b, **options):
    """Wang et al.'s window, and moments that divide by the weights' sum, 1, as in their `ssim_index.m`."""
    options |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(a, b, data_range=1, **options)


def test_ssim_is_scikit_images(pair):
    """Float32 against float64: at most 1e-6 of rounding in each quotient, and they are averaged."""
    a, b = pair
    expected = [
        scikit_image_ssim(x.astype(float), y.astype(float), channel_axis=-1)
        for x, y in zip(*pair, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(a, b), expected, atol=1e-6)
    assert metrics.ssim(a[1], b[1]) == pytest.approx(expected[1], abs=1e-6)


def test_ssim_of_luma_without_border(pair):
    a, b = (images[0, 3:-3, 3:-3].astype(float) for images in pair)
    expected = scikit_image_ssim(rgb2ycbcr(a)[..., 0] / 255, rgb2ycbcr(b)[..., 0] / 255)
    assert metrics.ssim(pair[0][0], pair[1][0], border=3, luma=True) == pytest.approx(expected, abs=1e-6)


def test_ssim_of_smooth_images():
    """The hard case for float32: variances that are tiny beside the squared means."""
    ramp = np.broadcast_to(np.linspace(0.9, 0.95, 40, dtype=np.float32)[:, None, None], (40, 30, 3))
    noisy = ramp + np.random.default_rng(1).normal(0, 1e-3, ramp.shape).astype(np.float32)
    expected = scikit_image_ssim(ramp.astype(float), noisy.astype(float), channel_axis=-1)
    # The variances, about 1e-5, carry an error of 1e-8 or so beside c2 = 9e-4.
    assert metrics.ssim(ramp, noisy) == pytest.approx(expected, abs=5e-5)


def test_ssim_closed_forms():
    """Constant images: no variance, so only the means' quotient stays; equal images: 1."""
    dark, light = (np.full((12, 13, 3), value, np.float32) for value in (0.25, 0.5))
    assert metrics.ssim(dark, dark) == pytest.approx(1, abs=1e-6)
    expected = (2 * 0.25 * 0.5 + 1e-4) / (0.25**2 + 0.5**2 + 1e-4)
    # The variances of constants, 0, come out as 1e-8 or so beside c2 = 9e-4.
    assert metrics.ssim(dark, light) == pytest.approx(expected, abs=5e-5)


def test_ssim_bad_input(pair):
    a, b = pair
    with pytest.raises(InputError, match="different shapes"):
        metrics.ssim(a, b[:1])
    with pytest.raises(InputError, match="needs 11 pixels a side; border 4 leaves less of 20x17"):
        metrics.ssim(a, b, border=4)


def test_roc_auc_equals_scikit_learn():
    rng = np.random.default_rng(0)
    positive = rng.uniform(size=200) < 0.3
    scores = np.round(rng.normal(size=200) + positive, 1)  # with ties
    assert metrics.roc_auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    assert np.isnan(metrics.roc_auc(scores, np.zeros(200, bool)))
    with pytest.raises(InputError, match=r"scores have the shape \(200,\) and positive \(3,\)"):
        metrics.roc_auc(scores, positive[:3])
    with pytest.raises(InputError, match="positive must be a boolean array"):
        metrics.roc_auc(scores, positive.astype(int))  # of which ~ is no negation
    with pytest.raises(InputError, match="scores with NaN"):
        metrics.roc_auc(np.where(positive, np.nan, scores), positive)


@pytest.mark.parametrize("z", [-1, np.nan, np.inf])
def test_an_interval_has_a_width(z):
    with pytest.raises(InputError, match="z must not be negative"):
        metrics.wilson_interval(2, 3, z)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_borders_are_pixels_and_luma_is_of_color(pair, metric):
    for border in (-1, 1.5, True):
        with pytest.raises(InputError, match="border must be an integer of at least 0"):
            metric(*pair, border=border)
    with pytest.raises(InputError, match="luma must be True or False"):
        metric(*pair, luma="no")
    with pytest.raises(InputError, match="images with one channel have no Y"):
        metric(pair[0][..., :1], pair[1][..., :1], luma=True)
