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

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def keras_preprocess(images):
    return keras.applications.resnet.preprocess_input(255 * images)


@pytest.fixture(scope="module")
def keras_network():
    return keras_reference.build(keras.applications.ResNet50, seed=0, stem_scale=1 / 64)


@pytest.fixture(scope="module")
def network(keras_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.h5"
    keras_reference.save(keras_network, path)
    return models.create("resnet50", weights=path)


@pytest.fixture(scope="module")
def timm_network():
    """timm's ResNet-50, whose tensors have torchvision's names, with random weights and statistics."""
    reference = timm.create_model("resnet50").eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in reference.state_dict().items():
        if tensor.ndim >= 2:
            deviation = (2 / tensor[0].numel()) ** 0.5
            tensor.normal_(0, deviation, generator=generator)
        elif name.endswith(("weight", "running_var")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.3, generator=generator)
    return reference


@pytest.fixture(scope="module")
def torchvision_layout(timm_network, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(timm_network.state_dict(), path)
    return models.create("resnet50_torchvision", weights=path)


@pytest.mark.parametrize("size", [(75, 75), (128, 107)])
def test_equals_keras(network, keras_network, size):
    """1e-4 of the largest value; float32 rounding over 50 layers gives 2e-6."""
    images = keras_reference.photographs(*size)
    logits, features = keras_reference.our_outputs(network, images)
    expected = keras_reference.outputs(keras_network, keras_preprocess, "conv5_block3_out")(images)
    assert keras_reference.difference(logits, expected[0]) < 1e-4
    assert keras_reference.difference(features, expected[1]) < 1e-4
    # The two images differ, so the comparison is not one of constants.
    assert keras_reference.difference(logits[0], logits[1]) > 0.01


@pytest.mark.slow
def test_gradient_equals_keras(network):
    images = keras_reference.photographs(75, 80)
    cotangent = np.random.default_rng(2).normal(size=(2, 1000))
    with keras_reference.float64():
        reference = keras_reference.build(keras.applications.ResNet50, seed=0, stem_scale=1 / 64)
        actual = keras_reference.our_gradient(network, images, cotangent)
        expected = keras_reference.gradient(reference, keras_preprocess, images, cotangent)
        assert keras_reference.difference(actual, expected) < 1e-3  # measured: 3e-7 to 5e-7


def run_timm(reference, images, cotangent, dtype):
    """Logits, last feature map (NHWC) and gradient with respect to the images."""
    reference = reference.to(dtype)
    images = torch.tensor(images, dtype=dtype, requires_grad=True)
    mean, deviation = (torch.tensor(value, dtype=dtype) for value in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    features = reference.forward_features(((images - mean) / deviation).permute(0, 3, 1, 2))
    logits = reference.forward_head(features)
    (gradient,) = torch.autograd.grad((logits * torch.tensor(cotangent, dtype=dtype)).sum(), images)
    return logits.detach().numpy(), features.permute(0, 2, 3, 1).detach().numpy(), gradient.numpy()


@pytest.mark.parametrize("size", [(75, 75), (128, 107)])
def test_torchvision_layout_equals_timm(torchvision_layout, timm_network, size):
    """Odd sides too, where padding on one side only would sample other pixels."""
    images = keras_reference.photographs(*size)
    expected = run_timm(timm_network, images, np.zeros((2, 1000)), torch.float32)
    actual = keras_reference.our_outputs(torchvision_layout, images)
    assert keras_reference.difference(actual[0], expected[0]) < 1e-4
    assert keras_reference.difference(actual[1], expected[1]) < 1e-4
    assert keras_reference.difference(actual[0][0], actual[0][1]) > 0.01


@pytest.mark.slow
def test_gradient_of_the_torchvision_layout_equals_timm(torchvision_layout, timm_network):
    images = keras_reference.photographs(75, 80)
    cotangent = np.random.default_rng(2).normal(size=(2, 1000))
    with jax.enable_x64(True):
        actual = keras_reference.our_gradient(torchvision_layout, images, cotangent)
    expected = run_timm(timm_network, images, cotangent, torch.float64)[2]
    assert keras_reference.difference(actual, expected) < 1e-3


def test_a_file_of_the_other_layout(torchvision_layout, tmp_path, timm_network):
    torch.save(timm_network.state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(InputError, match=r"does not fit ResNet50: missing .*conv\.bias and 50 more"):
        models.create("resnet50", weights=tmp_path / "resnet50.pth")


def test_preprocessing():
    """The published means, at the ends of the range; BGR for Keras."""
    image = jnp.zeros((1, 1, 1, 3)).at[..., 0].set(1)
    keras_input = models.resnet.caffe_input(image)
    np.testing.assert_allclose(keras_input[0, 0, 0], [-103.939, -116.779, 255 - 123.68], atol=1e-4)
    torchvision_input = models.resnet.torchvision_input(image)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(torchvision_input[0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Keras's count_params (with statistics), torchvision's num_params (without).
    [("resnet50", 25_636_712), ("resnet50_torchvision", 25_557_032 + 2 * 26_560)],
)
def test_number_of_parameters(name, parameters):
    network = without_weights(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network))) == parameters


def test_endpoints_and_sizes():
    """The output sizes in Table 1 of the paper at 224 px."""
    network = without_weights("resnet50")
    shapes = nnx.eval_shape(lambda network: network.endpoints(jnp.zeros((1, 224, 224, 3))), network)
    sizes = {name: (shape.shape[1], shape.shape[3]) for name, shape in shapes.items()}
    assert sizes == {
        "stem": (56, 64),
        "res_2": (56, 256),
        "res_3": (28, 512),
        "res_4": (14, 1024),
        "res_5": (7, 2048),
    }
    with pytest.raises(InputError, match="31x40 are too small: at least 32x32"):
        network.endpoints(jnp.zeros((1, 31, 40, 3)))
