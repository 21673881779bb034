"""Pixel deflection against a NumPy transcription with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sample_photographs import photograph

from experiments.benchmarks import numpy_defenses
from srdef import defenses
from srdef.defenses import pixel_deflection
from srdef.errors import InputError

KEY = jax.random.key(0)


class TwoCorners(nnx.Module):
    """Class 0 looks at the upper left of the image, class 1 at the lower right, others at nothing."""

    num_classes = 6
    image_size = 8

    def __init__(self):
        self.classifier = nnx.Linear(2, 6, rngs=nnx.Rngs(0))
        kernel = jnp.zeros((2, 6)).at[0, 0].set(2.0).at[1, 1].set(1.0)
        self.classifier.kernel[...] = kernel
        self.classifier.bias[...] = jnp.array([0.0, 0, -9, -9, -9, -9])

    def features(self, images):
        corners = jnp.zeros((1, 4, 4, 2)).at[0, 0, 0, 0].set(1.0).at[0, 3, 3, 1].set(1.0)
        return corners * images.mean()

    def __call__(self, images):
        return self.classifier(self.features(images).mean(axis=(1, 2)))


def test_deflect_equals_transcription():
    image = photograph(0, 17, 23)
    draws = pixel_deflection.draw(KEY, jnp.zeros((17, 23)), 500, 10)  # many, so that some are read again
    expected = numpy_defenses.deflect(image, [np.asarray(part) for part in draws])
    result = jax.jit(pixel_deflection.deflect)(jnp.asarray(image), draws)
    np.testing.assert_array_equal(result, expected)
    assert (np.asarray(result) != image).any()


def test_draws_stay_in_the_window_and_the_image():
    draws = pixel_deflection.draw(KEY, jnp.zeros((17, 23)), 3000, 4)
    for position, source, size in ((draws.row, draws.from_row, 17), (draws.column, draws.from_column, 23)):
        np.testing.assert_array_equal(np.unique(position), np.arange(size))
        np.testing.assert_array_equal(np.unique(source), np.arange(size))
        np.testing.assert_array_equal(np.unique(source - position), np.arange(-4, 5))
    np.testing.assert_array_equal(np.bincount(draws.channel), 1000)


def test_draws_follow_the_map():
    probability = jnp.array([[0.0, 1.0], [0.5, 0.75]])
    draws = pixel_deflection.draw(KEY, probability, 20000, 1)
    counts = np.bincount(2 * np.asarray(draws.row) + np.asarray(draws.column), minlength=4)
    # Four standard deviations of a share are 0.014.
    np.testing.assert_allclose(counts / 20000, np.array([1, 0, 0.5, 0.25]) / 1.75, atol=0.014)
    assert counts[1] == 0


def test_robust_activation_map():
    activation = pixel_deflection.robust_activation_map(TwoCorners(), jnp.full((8, 8, 3), 0.5))
    assert activation.shape == (8, 8)
    np.testing.assert_allclose(activation[0, 0], 1, atol=1e-6)
    # The second class counts half, and class maps are scaled before they are summed.
    np.testing.assert_allclose(activation[7, 7], 0.5, atol=1e-6)
    np.testing.assert_allclose(activation[0, 7], 0, atol=1e-6)


def test_spares_what_the_classifier_looks_at():
    image = jnp.asarray(photograph(0, 16, 16))
    defense = defenses.create("pixel_deflection", classifier=TwoCorners(), sigma=None, deflections=2000)
    changed = np.asarray((defense(image, KEY) != image).any(axis=-1))
    assert not changed[:2, :2].any()
    assert changed.mean() > 0.5


def test_is_deflection_then_wavelet_denoising():
    image = jnp.asarray(photograph(0, 24, 24))
    both = defenses.create("pixel_deflection")(image, KEY)
    deflected = defenses.create("pixel_deflection", sigma=None)(image, KEY)
    np.testing.assert_allclose(both, defenses.Wavelet(sigma=0.04)(deflected, KEY), atol=1e-6)
    changed = int((deflected != image).sum())
    assert 100 < changed <= 200  # some values are copied from equal ones


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deflections": 0}, "deflections"),
        ({"window": 0}, "window"),
        ({"classifier": nnx.Module()}, "features"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        defenses.create("pixel_deflection", **options)
