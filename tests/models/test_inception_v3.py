import jax
import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
from flax import nnx
from keras_reference import keras

from srdef import models
from srdef.errors import InputError
from srdef.models.inception_layers import Conv, ConvNorm
from srdef.models.registry import without_weights
from srdef.weights import loading

NAME = "inception_v3"


def preprocess(images):
    return keras.applications.inception_v3.preprocess_input(255 * images)


@pytest.fixture(scope="module")
def file(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception_v3.h5"
    keras_reference.save(reference, path)
    return path


@pytest.fixture(scope="module")
def reference():
    return keras_reference.build(keras.applications.InceptionV3, seed=0)


@pytest.fixture(scope="module")
def network(file):
    return models.create(NAME, weights=file)


@pytest.fixture(scope="module")
def outputs(reference):
    return keras_reference.outputs(reference, preprocess, "mixed10")


@pytest.mark.parametrize("size", [(75, 75), pytest.param((128, 107), marks=pytest.mark.slow)])
def test_equals_keras(network, outputs, size):
    """1e-4 of the largest value; float32 rounding over 48 layers gives 1e-6."""
    images = keras_reference.photographs(*size)
    logits, features = keras_reference.our_outputs(network, images)
    expected_logits, expected_features = outputs(images)
    assert keras_reference.difference(logits, expected_logits) < 1e-4
    assert keras_reference.difference(features, expected_features) < 1e-4
    # The two images differ, so the comparison is not one of constants.
    assert keras_reference.difference(logits[0], logits[1]) > 0.01


@pytest.mark.slow
def test_gradient_equals_keras(network):
    images = keras_reference.photographs(75, 80)
    cotangent = np.random.default_rng(2).normal(size=(2, 1000))
    with keras_reference.float64():
        reference = keras_reference.build(keras.applications.InceptionV3, seed=0)
        actual = keras_reference.our_gradient(network, images, cotangent)
        expected = keras_reference.gradient(reference, preprocess, images, cotangent)
        assert keras_reference.difference(actual, expected) < 1e-3  # measured: 3e-7 to 5e-7


def test_without_the_last_layer(network, file):
    """The published file has the last layer; a network made without it leaves that out."""
    headless = models.create(NAME, weights=file, num_classes=0)
    images = keras_reference.photographs(75, 75)
    pooled, _ = keras_reference.our_outputs(headless, images)
    expected, _ = keras_reference.our_outputs(network, images)
    kernel, bias = network.classifier.kernel[...], network.classifier.bias[...]
    np.testing.assert_allclose(pooled @ kernel + bias, expected, rtol=1e-4, atol=1e-5)


def test_a_published_file_without_the_last_layer(network):
    """Keras also publishes files that end before the last layer."""
    names = network.keras_names()
    assert names[-2:] == ["classifier.kernel", "classifier.bias"]
    tensors = loading.flatten(network)
    shorter = loading.convert_keras(network, {name: tensors[name] for name in names[:-2]}, "notop.h5")
    headless = without_weights(NAME, num_classes=0)
    loading.load(headless, shorter, "notop.h5")
    with pytest.raises(InputError, match=r"missing classifier\.bias, classifier\.kernel"):
        loading.load(network, shorter, "notop.h5")


def test_endpoints():
    """The sizes of the paper's Table 1 at 299 px."""
    network = without_weights(NAME)
    shapes = nnx.eval_shape(lambda network: network.endpoints(jnp.zeros((1, 299, 299, 3))), network)
    sizes = {name: (shape.shape[1], shape.shape[3]) for name, shape in shapes.items()}
    assert sizes["stem"] == (35, 192)
    assert [sizes[f"mixed{i}"] for i in range(11)] == [
        (35, 256),
        (35, 288),
        (35, 288),
        *[(17, 768)] * 5,
        (8, 1280),
        (8, 2048),
        (8, 2048),
    ]


def test_number_of_parameters():
    """As `count_params` of Keras says: trained ones and statistics."""
    network = without_weights(NAME)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == 23_851_784


def test_train_mode_normalises_with_the_batch():
    layer = ConvNorm(3, Conv(16, (3, 3)), rngs=nnx.Rngs(0))
    images = keras_reference.photographs(20, 20)

    @nnx.jit
    def forward(layer):
        return layer(images)

    forward(layer)
    np.testing.assert_array_equal(layer.norm.mean[...], 0)
    layer.train()
    activations = forward(layer)
    # Zero mean before the ReLU; the running mean has gone a hundredth of the way.
    assert 0.3 < float((activations == 0).mean()) < 0.7
    np.testing.assert_allclose(layer.norm.mean[...], 0.01 * layer.conv(images).mean((0, 1, 2)), atol=1e-6)


def test_train_mode_reaches_every_layer():
    network = without_weights(NAME)
    layers = [layer for _, layer in nnx.iter_modules(network) if isinstance(layer, nnx.BatchNorm)]
    assert len(layers) == 94
    assert all(layer.use_running_average for layer in layers)
    network.train()
    assert not any(layer.use_running_average for layer in layers)


def test_images_that_are_too_small(network):
    with pytest.raises(InputError, match="74x80 are too small: at least 75x75"):
        network(jnp.zeros((1, 74, 80, 3)))


def test_weights_of_another_network(network):
    tensors = dict.fromkeys(map(str, range(320)), np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"x\.h5 does not fit InceptionV3: it has 320 tensors, expected 378"):
        loading.convert_keras(network, tensors, "x.h5")
    names = network.keras_names()
    tensors = loading.flatten(network)
    tensors = loading.convert_keras(network, {name: tensors[name] for name in reversed(names)}, "x.h5")
    with pytest.raises(InputError, match="has shape"):
        loading.load(network, tensors, "x.h5")
