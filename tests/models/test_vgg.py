import jax
import jax.numpy as jnp
import keras_reference
import numpy as np
import pytest
import torch
from flax import nnx
from keras_reference import keras
from timm_reference import timm

from srdef import models
from srdef.errors import InputError
from srdef.models.registry import without_weights

MAPS = ("conv1_2", "conv2_2", "conv3_4", "conv5_4")


def vgg19_without_top(**options):
    """The published file of the feature layers is that of `include_top=False`."""
    options.pop("classifier_activation")
    return keras.applications.VGG19(include_top=False, **options)


@pytest.fixture(scope="module")
def keras_network():
    return keras_reference.build(vgg19_without_top, seed=0, stem_scale=1 / 64)


@pytest.fixture(scope="module")
def network(keras_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg19_notop.h5"
    keras_reference.save(keras_network, path)
    return models.create("vgg19", weights=path)


@jax.jit
def maps(network, images):
    found = network.endpoints(images)
    return [found[name] for name in MAPS]


@pytest.mark.parametrize("size", [pytest.param((32, 48), marks=pytest.mark.slow), (45, 33)])
def test_equals_keras(network, keras_network, size):
    """1e-4 of the largest value; float32 rounding gives 1e-6. Odd sides are cut, not padded."""
    images = keras_reference.photographs(*size)
    names = ["block1_conv2", "block2_conv2", "block3_conv4", "block5_conv4"]
    twin = keras.Model(keras_network.input, [keras_network.get_layer(name).output for name in names])
    expected = twin(keras.applications.vgg19.preprocess_input(255 * images))
    for actual, reference in zip(maps(network, images), expected, strict=True):
        assert keras_reference.difference(actual, reference) < 1e-4
    assert keras_reference.difference(expected[-1][0], expected[-1][1]) > 0.01


@pytest.fixture(scope="module")
def timm_network():
    """timm's VGG-19, whose convolutions have torchvision's names, with random weights."""
    reference = timm.create_model("vgg19", num_classes=0).features.eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in reference.state_dict().values():
        tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.3, generator=generator)
    return reference


def test_torchvision_layout_equals_timm(timm_network, tmp_path):
    """Through a file with torchvision's names; the dense layers in it are left out."""
    tensors = {f"features.{name}": tensor for name, tensor in timm_network.state_dict().items()}
    torch.save({**tensors, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg19.pth")
    network = models.create("vgg19_torchvision", weights=tmp_path / "vgg19.pth")
    images = keras_reference.photographs(45, 33)
    x = (torch.tensor(images) - torch.tensor((0.485, 0.456, 0.406))) / torch.tensor((0.229, 0.224, 0.225))
    # The ReLU behind the last convolution is layer 35, before the last pooling.
    with torch.no_grad():
        expected = timm_network[:36](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert isinstance(timm_network[36], torch.nn.MaxPool2d)
    assert keras_reference.difference(maps(network, images)[-1], expected.numpy()) < 1e-4


def test_weights_of_another_input_are_refused(keras_network, timm_network, tmp_path):
    """They fit tensor by tensor, and every feature map would be wrong."""
    keras_reference.save(keras_network, keras_file := tmp_path / "vgg19_notop.h5")
    with pytest.raises(InputError, match=r"vgg19_notop\.h5 does not fit VGG19: .* that of vgg19$"):
        models.create("vgg19_torchvision", weights=keras_file)
    tensors = {f"features.{name}": tensor for name, tensor in timm_network.state_dict().items()}
    torch.save(tensors, torch_file := tmp_path / "vgg19.pth")
    with pytest.raises(InputError, match=r"vgg19\.pth does not fit VGG19: .* that of vgg19_torchvision$"):
        models.create("vgg19", weights=torch_file)


def test_number_of_parameters():
    """Keras's count_params of the network without its dense layers."""
    network = without_weights("vgg19")
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == 20_024_384


def test_pooled_features_and_small_images(network):
    images = keras_reference.photographs(32, 32)
    pooled, features = keras_reference.our_outputs(network, images)
    np.testing.assert_allclose(pooled, features.mean((1, 2)), rtol=1e-5)
    with pytest.raises(InputError, match="15x40 are too small: at least 16x16"):
        network(jnp.zeros((1, 15, 40, 3)))
