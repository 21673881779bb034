import jax
import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
from flax import nnx
from keras_reference import keras

from srdef import models
from srdef.models.registry import without_weights

NAME = "inception_resnet_v2"


def preprocess(images):
    return keras.applications.inception_resnet_v2.preprocess_input(255 * images)


@pytest.fixture(scope="module")
def reference():
    return keras_reference.build(keras.applications.InceptionResNetV2, seed=0)


@pytest.fixture(scope="module")
def network(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception_resnet_v2.h5"
    keras_reference.save(reference, path)
    return models.create(NAME, weights=path)


@pytest.mark.slow
def test_equals_keras(network, reference):
    """1e-4 of the largest value; float32 rounding gives 1e-6."""
    expected = keras_reference.outputs(reference, preprocess, "conv_7b_ac")
    for size in ((75, 75), (128, 107)):
        images = keras_reference.photographs(*size)
        logits, features = keras_reference.our_outputs(network, images)
        expected_logits, expected_features = expected(images)
        assert keras_reference.difference(logits, expected_logits) < 1e-4
        assert keras_reference.difference(features, expected_features) < 1e-4
        # The two images differ, so the comparison is not one of constants.
        assert keras_reference.difference(logits[0], logits[1]) > 0.01


@pytest.mark.slow
def test_gradient_equals_keras(network):
    images = keras_reference.photographs(75, 80)
    cotangent = np.random.default_rng(2).normal(size=(2, 1000))
    with keras_reference.float64():
        reference = keras_reference.build(keras.applications.InceptionResNetV2, seed=0)
        actual = keras_reference.our_gradient(network, images, cotangent)
        expected = keras_reference.gradient(reference, preprocess, images, cotangent)
        assert keras_reference.difference(actual, expected) < 1e-3  # measured: 3e-7 to 5e-7


@pytest.fixture(scope="module")
def shapes():
    return without_weights(NAME)


def test_number_of_parameters(shapes):
    """As `count_params` of Keras says: trained ones and statistics."""
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes))) == 55_873_736


def test_endpoints(shapes):
    """The sizes of the paper's Figure 15 at 299 px."""
    maps = nnx.eval_shape(lambda network: network.endpoints(jnp.zeros((1, 299, 299, 3))), shapes)
    assert {name: (shape.shape[1], shape.shape[3]) for name, shape in maps.items()} == {
        "stem": (35, 192),
        "mixed_5b": (35, 320),
        "block35_10": (35, 320),
        "mixed_6a": (17, 1088),
        "block17_20": (17, 1088),
        "mixed_7a": (8, 2080),
        "block8_10": (8, 2080),
        "conv_7b": (8, 1536),
    }


def test_every_tensor_has_a_place_in_the_published_order(shapes):
    names = shapes.keras_names()
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(shapes))}
    assert len(names) == len(paths) == 898
    assert set(names) == paths
