"""Pixel deflection against a NumPy transcription with the same draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sample_photographs import photograph

from srdef import defenses, images, models
from srdef.commands.benchmarks import numpy_defenses
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


class Three(nnx.Module):
    """Three classes, fewer than the five that the map asks for, each with a channel that lights a corner."""

    def __init__(self, convolution, bias=(0.0, 0.0, 0.0)):
        rngs = nnx.Rngs(0)
        self.classifier = nnx.Conv(3, 3, (1, 1), rngs=rngs) if convolution else nnx.Linear(3, 3, rngs=rngs)
        kernel = jnp.diag(jnp.array([4.0, 2.0, 1.0]))
        self.classifier.kernel[...] = kernel.reshape(self.classifier.kernel.shape)
        self.classifier.bias[...] = jnp.array(bias)

    def features(self, images):
        zeros = jnp.zeros((1, 3, 3, 3))
        return zeros.at[0, 0, 0, 0].set(1).at[0, 0, 2, 1].set(1).at[0, 2, 0, 2].set(1) * images.mean()


@pytest.mark.parametrize("convolution", [False, True])
def test_a_map_of_three_classes(convolution):
    activation = pixel_deflection.robust_activation_map(Three(convolution), jnp.full((3, 3, 3), 0.5))
    expected = np.zeros((3, 3))
    expected[0, 0], expected[0, 2], expected[2, 0] = 1, 1 / 2, 1 / 4
    np.testing.assert_allclose(activation, expected, atol=1e-6)


def test_a_convolution_is_averaged_behind_its_relu():
    """As SqueezeNet has it: a class that is negative everywhere but in one place counts by that place."""
    # Scores 1, 0.1 and 0.3 ninths; without ReLU they would be -7, -7.1 and -1.3, with class 2 first.
    activation = pixel_deflection.robust_activation_map(
        Three(True, bias=(-1.0, -0.9, -0.2)), jnp.full((3, 3, 3), 0.5)
    )
    np.testing.assert_allclose([activation[0, 0], activation[0, 2], activation[2, 0]], [1, 1 / 4, 1 / 2])


def test_squeezenet():
    """The first class of the map is the one that the network itself predicts."""
    network = models.create("squeezenet", pretrained=True)
    image = jnp.asarray(photograph(0, 64, 64))
    activation = jax.jit(pixel_deflection.robust_activation_map, static_argnums=2)(network, image, 1)
    maps = jax.jit(lambda n, x: jnp.einsum("hwc,ck->khw", n.features(x)[0], n.classifier.kernel[...][0, 0]))
    best = maps(network, image[None])[int(jax.jit(lambda n, x: n(x))(network, image[None]).argmax())]
    scaled = (best - best.min()) / (best.max() - best.min())
    expected = images.resize(scaled[..., None], 64, 64, "bilinear")[..., 0]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(activation, expected, atol=1e-4)
    defense = defenses.create("pixel_deflection", classifier=network)
    assert bool(jnp.isfinite(jax.jit(lambda d, x: d(x, KEY))(defense, image)).all())


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


class Headless(nnx.Module):
    """A network that was built without a last layer, or with a strange one."""

    def __init__(self, classifier):
        self.classifier = nnx.data(classifier)

    def features(self, images):
        return images


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"deflections": 0}, "deflections"),
        ({"window": 0}, "window"),
        ({"classifier": nnx.Module()}, "features"),
        ({"classifier": Headless(None)}, "a last layer"),
        ({"classifier": Headless(nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0)))}, "dense or a 1x1 convolution"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(InputError, match=words):
        defenses.create("pixel_deflection", **options)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deflects_values_of_all_channels(channels):
    """So many draws that every value is replaced, and few by one that is the same."""
    image = jax.random.uniform(KEY, (6, 5, channels))
    defense = defenses.PixelDeflection(denoiser=None, deflections=400 * channels, window=2)
    changed = np.asarray(defense(image, KEY) != image)
    assert changed.reshape(-1, channels).mean(axis=0).min() > 0.5
