"""Networks of `keras.applications` with random weights: the reference of the parity tests.

Their weights go to srdef through a file in the layout of the published ones.
"""

import os
from contextlib import contextmanager
from unittest import mock

os.environ["KERAS_BACKEND"] = "jax"

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format


def _zeros(self, shape, dtype=None):
    return np.zeros(shape, dtype or "float32")


def build(application, seed, stem_scale=1.0):
    """`application` for any image size, with random weights and statistics, giving logits.

    `stem_scale` multiplies the first kernel: smaller where a network sees values of 0 to 255, so that
    the biases and statistics behind it weigh as much as its result.

    Keras numbers its layers over the whole session. One layer made before shifts all numbers, so that
    a loader that goes by names fails.
    """
    keras.layers.Conv2D(1, 1)
    # Keras's own random weights take a compilation for each shape, and are replaced anyway.
    with mock.patch.object(keras.initializers.GlorotUniform, "__call__", _zeros):
        model = application(
            weights=None, classifier_activation=None, input_tensor=keras.Input((None, None, 3))
        )
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(_random(rng, weight.path.rsplit("/")[-1], tuple(weight.shape)))
    stem = model.trainable_variables[0]
    stem.assign(stem_scale * stem.value)
    return model


def _random(rng, kind, shape):
    """Of a size that keeps the activations of all layers near 1."""
    match kind:
        case "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
        case "gamma" | "moving_variance":
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        case "beta" | "bias" | "moving_mean":
            return rng.normal(0, 0.3, shape).astype(np.float32)
    raise ValueError(kind)


def save(model, path):
    """Write the weights as the published files have them."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def outputs(model, preprocess, last_layer):
    """A function of images in [0, 1]: logits and last feature map of the Keras network."""
    twin = keras.Model(model.input, [model.output, model.get_layer(last_layer).output])

    @jax.jit
    def evaluate(weights, statistics, images):
        return twin.stateless_call(weights, statistics, preprocess(images), training=False)[0]

    return lambda images: evaluate(*_state(model), images)


@jax.jit
def our_outputs(network, images):
    """The same of one of our networks."""
    return network(images), network.features(images)


@contextmanager
def float64():
    """In float32 a rounding error that moves one activation across a ReLU's kink changes a gradient by
    some thousandths; in float64 that does not happen, and what is compared is the function.
    """
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        try:
            yield
        finally:
            keras.config.set_floatx("float32")
            keras.config.set_dtype_policy("float32")


def gradient(model, preprocess, images, cotangent):
    """Gradient of `sum(logits · cotangent)` with respect to the images; `model` was built in float64."""

    @jax.jit
    @jax.grad
    def evaluate(images, weights, statistics):
        logits, _ = model.stateless_call(weights, statistics, preprocess(images), training=False)
        return jnp.sum(logits * cotangent)

    return evaluate(jnp.asarray(images, jnp.float64), *_state(model))


def our_gradient(network, images, cotangent):
    """The same of one of our networks."""
    network = jax.tree.map(lambda value: value.astype(jnp.float64), network)
    function = jax.jit(jax.grad(lambda images, network: jnp.sum(network(images) * cotangent)))
    return function(jnp.asarray(images, jnp.float64), network)


def _state(model):
    trainable = [variable.value for variable in model.trainable_variables]
    return trainable, [variable.value for variable in model.non_trainable_variables]


def difference(actual, expected):
    """Largest difference, relative to the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    return np.abs(actual - expected).max() / np.abs(expected).max()


def photographs(height, width):
    """Two images in [0, 1] of different brightness and colour, from random numbers."""
    rng = np.random.default_rng(1)
    noise = rng.random((2, height, width, 3), np.float32)
    return noise * np.asarray([[[[1, 0.8, 0.6]]], [[[0.2, 0.3, 0.4]]]], np.float32)
