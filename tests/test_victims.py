"""Victims are pytrees that give the logits of one image."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.victims import DiverseInputs, Undefended, canvas_side


class Mean(nnx.Module):
    """Two logits: the mean of the image, and a parameter."""

    num_classes = 2

    def __init__(self, threshold):
        self.threshold = nnx.Param(jnp.float32(threshold))

    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([mean, jnp.broadcast_to(self.threshold[...], mean.shape)], axis=-1)


def test_undefended_is_the_classifier():
    victim = Undefended(Mean(0.25))
    image = jnp.full((4, 5, 3), 0.5)
    np.testing.assert_allclose(victim(image, jax.random.key(0)), [0.5, 0.25])
    assert victim.num_classes == 2
    gradient = jax.grad(lambda x: victim(x, jax.random.key(0))[0])(image)
    np.testing.assert_allclose(gradient, 1 / 60, rtol=1e-6)


def test_weights_are_arguments_not_constants():
    """One compiled program serves other weights of the same shape."""

    @jax.jit
    def logits(victim, image):
        return victim(image, jax.random.key(0))

    image = jnp.full((4, 5, 3), 0.5)
    assert logits(Undefended(Mean(0.25)), image)[1] == 0.25
    assert logits(Undefended(Mean(0.75)), image)[1] == 0.75
    assert logits._cache_size() == 1


class Canvas(nnx.Module):
    """Gives back the image that it sees, as logits."""

    num_classes = 0

    def __call__(self, images):
        return images.reshape(len(images), -1)


def draws(probability, count=200, shape=(30, 20, 3)):
    """An image of distinct values above 1, and what `DiverseInputs` makes of it."""
    image = (1 + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)
    victim = DiverseInputs(Undefended(Canvas()), probability, fill=0.5)
    keys = jax.random.split(jax.random.key(0), count)
    height, width = canvas_side(shape[0]), canvas_side(shape[1])
    seen = jax.jit(jax.vmap(lambda key: victim(image, key)))(keys)
    return image, np.asarray(seen).reshape(count, height, width, 3)


def test_canvas_side_scales_with_the_image():
    assert [canvas_side(side) for side in (299, 598, 160, 30)] == [330, 660, 177, 33]


def test_diverse_inputs_against_a_transcription():
    """Each draw is a nearest-neighbour resize by TensorFlow's rule, somewhere on a grey canvas."""
    image, seen = draws(probability=1.0)
    sides, places = set(), set()
    for canvas in seen:
        inside = canvas[..., 0] != 0.5
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        height, width = len(rows), len(columns)
        expected = image[np.floor(np.arange(height) * 30 / height).astype(int)]
        expected = expected[:, np.floor(np.arange(width) * 20 / width).astype(int)]
        top, left = rows[0], columns[0]
        np.testing.assert_array_equal(canvas[top : top + height, left : left + width], expected)
        np.testing.assert_array_equal(canvas[~inside], 0.5)
        sides.add(height)
        places.add((height, top))
    # Sides from [30, 33), and places below what is left over, as the published code draws them.
    assert sides == {30, 31, 32}
    assert places == {(30, 0), (30, 1), (30, 2), (31, 0), (31, 1), (32, 0)}


def test_diverse_inputs_without_resizing_stand_in_the_middle():
    image, seen = draws(probability=0.0, count=3)
    for canvas in seen:
        np.testing.assert_array_equal(canvas[1:31, 1:21], image)
        assert (canvas == 0.5).sum() == canvas.size - image.size


def test_diverse_inputs_probability():
    image, seen = draws(probability=0.3, count=400)
    plain = sum(np.array_equal(canvas[1:31, 1:21], image) for canvas in seen)
    # A resized image may land there too, with probability 1/9; 4 standard deviations.
    share = 0.7 + 0.3 / 9
    assert abs(plain / 400 - share) < 4 * np.sqrt(share * (1 - share) / 400)
