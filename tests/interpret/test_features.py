"""Features and activation maps against the network taken apart by hand."""

import jax
import numpy as np
import pytest

from srdef import models
from srdef.errors import InputError
from srdef.interpret import cam, features


@pytest.fixture(scope="module")
def classifier():
    return models.create("efficientnet_lite0", num_classes=7)


@pytest.fixture(scope="module")
def outputs(classifier, images):
    """Last feature map and logits, from the network itself."""
    run = jax.jit(lambda network, x: (network.features(x), network(x)))
    return [np.asarray(value) for value in run(classifier, images)]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(3, 64, 64, 3)).astype(np.float32)


def test_the_dense_layer_of_the_last_hidden_layer_gives_the_logits(classifier, images, outputs):
    hidden = features.last_hidden_layer(classifier, images, batch_size=2)
    assert hidden.shape == (3, 1280)
    # Another program for the same sums.
    np.testing.assert_allclose(classifier.classifier(hidden), outputs[1], rtol=1e-4, atol=1e-5)


def test_named_feature_maps(classifier, images):
    shapes = features.endpoint_shapes(classifier, images.shape[1:])
    assert shapes["block4"] == (8, 8, 40)
    maps = features.feature_maps(classifier, images, "block4")
    assert maps.shape == (3, *shapes["block4"])
    last = features.feature_maps(classifier, images, "head")
    pooled = features.last_hidden_layer(classifier, images)
    np.testing.assert_allclose(last.mean(axis=(1, 2)), pooled, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="unknown feature map 'block99'; choose from: stem, block0"):
        features.feature_maps(classifier, images, "block99")


def test_activation_maps_are_the_weighted_feature_maps(classifier, images, outputs):
    maps, predictions = cam.activation_maps(classifier, images)
    np.testing.assert_array_equal(predictions, np.argmax(outputs[1], axis=-1))
    assert maps.shape == (3, 64, 64)
    kernel = np.asarray(classifier.classifier.kernel[...])
    for image, label in enumerate(predictions):
        small = outputs[0][image] @ kernel[:, label]
        # Enlarged 32 times, the outermost pixels are the corners of the small map.
        corners = maps[image][np.ix_([0, -1], [0, -1])]
        expected = (small - small.min()) / (small.max() - small.min())
        np.testing.assert_allclose(corners, expected, atol=2e-3)


def test_activation_maps_need_a_dense_layer(images):
    with pytest.raises(InputError, match="SqueezeNet has no dense layer"):
        cam.activation_maps(models.create("squeezenet"), images)


def test_distances_and_correlations_are_of_arrays_that_pair_up():
    with pytest.raises(InputError, match=r"values have the shape \(2, 3\) and the reference \(1, 3\)"):
        features.relative_distance(np.ones((2, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="have no correlation"):
        cam.correlation(np.ones((3, 3)), np.ones((2, 3)))
    a, b = np.arange(6.0).reshape(2, 3), np.array([[1.0, 0, 2], [3, 5, 4]])
    assert cam.correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
