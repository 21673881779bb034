"""Spectra against SciPy, and against waves of known frequency."""

import numpy as np
import pytest
import scipy.fft

from srdef.errors import InputError
from srdef.interpret import spectrum


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def test_cosine_transform_equals_scipy():
    planes = noise(2, 20, 31)
    expected = scipy.fft.dctn(planes.astype(np.float64), axes=(1, 2), norm="ortho")
    # float32 FFTs of values up to 1; the largest coefficient is about 12.
    np.testing.assert_allclose(spectrum.cosine_transform(planes), expected, atol=2e-5)
    np.testing.assert_allclose(spectrum.inverse_cosine_transform(expected), planes, atol=2e-6)


def test_high_pass_equals_scipy():
    image = noise(24, 18, 3)
    planes = scipy.fft.dctn(image.astype(np.float64), axes=(0, 1), norm="ortho")
    kept = np.hypot(np.arange(24)[:, None] / 24, np.arange(18) / 18) >= 0.3
    expected = scipy.fft.idctn(planes * kept[..., None], axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(spectrum.high_pass(image, 0.3), expected, atol=2e-6)


def test_high_pass_at_zero_is_the_image_and_removes_a_constant_otherwise():
    image = noise(16, 16, 3)
    np.testing.assert_allclose(spectrum.high_pass(image, 0), image, atol=1e-6)
    np.testing.assert_allclose(spectrum.high_pass(np.full((16, 16, 3), 0.7), 0.01), 0, atol=1e-6)
    with pytest.raises(InputError, match="cutoff"):
        spectrum.high_pass(image, 1.5)


def test_log_magnitude_has_a_floor():
    values = spectrum.log_magnitude(np.array([[-10.0, 0.0, 1e-9]]), floor=1e-3)
    np.testing.assert_allclose(values, [[1, -3, -3]], atol=1e-6)


def test_radial_average_by_a_loop():
    values, radius = noise(9, 7), spectrum.cosine_radius(9, 7)
    average = spectrum.radial_average(values, radius, bins=5)
    for ring in range(5):
        inside = (radius >= ring / 5) & (radius < (ring + 1) / 5)
        assert average[ring] == pytest.approx(values[inside].mean(), rel=1e-6)


@pytest.mark.parametrize("side", [49, 150, 224, 299])
def test_a_frequency_where_a_ring_begins_belongs_to_that_ring(side):
    """k / n * n is less than k for some k."""
    row, cosine = np.arange(side)[None], spectrum.cosine_radius(1, side)
    np.testing.assert_array_equal(spectrum.radial_average(row, cosine, bins=side), row[0])
    half = np.arange(1 + (side - 1) // 2)
    waves = np.abs(np.fft.fftfreq(side, 1 / side))[None]
    found = spectrum.radial_average(waves, spectrum.fourier_radius(1, side), bins=side, highest=0.5)
    np.testing.assert_allclose(found[2 * half], half, rtol=1e-12)


def test_power_density_has_the_power_of_the_residual():
    residuals = noise(3, 16, 20, 3) - 0.5
    density = np.asarray(spectrum.power_density(residuals))
    assert density.mean() == pytest.approx(np.square(residuals).mean(), rel=1e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_residual_spectrum_shows_a_wave_at_its_frequency(scale):
    side, cycles = 32, 6
    position = np.arange(scale * side) / (scale * side)
    wave = 0.1 * np.sin(2 * np.pi * cycles * position)[None, :, None, None]
    changed = np.broadcast_to(0.5 + wave, (2, scale * side, scale * side, 3)).astype(np.float32)
    reference = np.full((2, side, side, 3), 0.5, np.float32)
    frequency, amplitude = spectrum.residual_spectrum(changed, reference, bins=16 * scale)
    # 6 waves over 32 pixels of the reference, however many pixels the changed image has.
    assert frequency[np.argmax(amplitude)] == pytest.approx(cycles / side, abs=0.5 / 32)
    assert frequency[-1] < scale / 2


def test_residual_spectrum_of_white_noise_is_flat():
    changed = np.random.default_rng(0).normal(0.5, 0.02, (8, 64, 64, 3)).astype(np.float32)
    _, amplitude = spectrum.residual_spectrum(changed, np.full_like(changed, 0.5), bins=8)
    # The density of white noise is its variance; the first ring has only about 50 coefficients.
    np.testing.assert_allclose(amplitude, 0.02, rtol=0.1)


def test_residual_spectrum_of_a_factor_that_is_no_float():
    """15 / 11 * 11 is 15.000000000000002."""
    frequency, amplitude = spectrum.residual_spectrum(noise(1, 15, 15, 3), noise(1, 11, 11, 3), bins=4)
    assert frequency[-1] < 15 / 11 / 2
    assert np.isfinite(amplitude).all()


def test_residual_spectrum_refuses_other_shapes():
    with pytest.raises(InputError, match="enlarged"):
        spectrum.residual_spectrum(noise(1, 8, 12, 3), noise(1, 8, 8, 3))


def test_rings_are_counted_and_belong_to_the_values():
    radius = spectrum.cosine_radius(4, 4)
    for bins in (0, 2.5, True):
        with pytest.raises(InputError, match="bins must be an integer of at least 1"):
            spectrum.radial_average(np.ones((4, 4)), radius, bins)
        with pytest.raises(InputError, match="bins must be an integer of at least 1"):
            spectrum.ring_centres(bins)
    with pytest.raises(InputError, match=r"values have the shape \(5, 4\) and radius \(4, 4\)"):
        spectrum.radial_average(np.ones((5, 4)), radius, 2)
