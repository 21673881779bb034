from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from srdef import models
from srdef.weights import catalog

# PyTorch waits for its threads by spinning, which is slow where the cores are shared.
torch.set_num_threads(1)

NATIVE = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}


@pytest.fixture(scope="module")
def network():
    """Trained networks by name, each loaded once."""
    loaded = {}
    return lambda name: loaded.setdefault(name, models.create(name, pretrained=True))


def photographs():
    """The 20 labelled ImageNet photographs that come with foolbox."""
    folder = Path(next(iter(find_spec("foolbox").submodule_search_locations))) / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))
    assert len(paths) == 20
    labels = np.array([int(path.stem.split("_")[-1]) for path in paths])
    return [Image.open(path).convert("RGB") for path in paths], labels


def batch(pictures, size, crop=False):
    """Resized, after the networks' evaluation crop: the central side / (side + 32)."""
    arrays = []
    for picture in pictures:
        if crop:
            side = int(size / (size + 32) * min(picture.size))
            left, top = (picture.width - side + 1) // 2, (picture.height - side + 1) // 2
            picture = picture.crop((left, top, left + side, top + side))
        arrays.append(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(arrays).astype(np.float32) / 255


@jax.jit
def classify(network, images):
    return network(images)


def logits(network, images):
    """In batches of five, so that each network is compiled once for a size."""
    return np.concatenate([classify(network, images[i : i + 5]) for i in range(0, len(images), 5)])


@jax.jit
def loss_gradient(network, images, labels):
    def loss(images):
        return -jnp.take_along_axis(jax.nn.log_softmax(network(images)), labels[:, None], axis=1).sum()

    return jax.grad(loss)(images)


def reference(name, size):
    """The PyTorch package with the same file; its padding is fixed for `size`."""
    network = EfficientNet.from_name(name.replace("_", "-"), image_size=size)
    weights = torch.load(catalog.locate(catalog.entry(name)), weights_only=True)
    network.load_state_dict(weights, strict=True)
    return network.eval()


def reference_logits(network, images):
    return network((255 * images.permute(0, 3, 1, 2) - 127) / 128)


@pytest.mark.parametrize(
    ("name", "size"), [*NATIVE.items(), ("efficientnet_lite0", 160), ("efficientnet_lite2", 191)]
)
def test_logits_equal_the_pytorch_package(network, name, size):
    """On photographs. Measured difference: at most 2e-5, of logits up to 22."""
    pictures, _ = photographs()
    images = batch(pictures[:5], size)
    with torch.no_grad():
        expected = reference_logits(reference(name, size), torch.tensor(images)).numpy()
    actual = logits(network(name), images)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(-actual)[:, :5], np.argsort(-expected)[:, :5])


def test_image_gradients_equal_the_pytorch_package(network):
    """Relative L2 distance of each image's gradient to PyTorch's in double precision.

    Rounding moves a few of the millions of ReLU6 inputs over a kink, so single precision is 1e-3
    away in both frameworks.
    """
    pictures, labels = photographs()
    images, labels = batch(pictures[:3], 96), labels[:3]
    double = torch.tensor(images, dtype=torch.float64, requires_grad=True)
    network64 = reference("efficientnet_lite0", 96).double()
    loss = torch.nn.functional.cross_entropy(
        reference_logits(network64, double), torch.tensor(labels), reduction="sum"
    )
    loss.backward()
    expected = double.grad.numpy()
    actual = loss_gradient(network("efficientnet_lite0"), images, labels)
    distance = np.linalg.norm((actual - expected).reshape(3, -1), axis=1)
    assert np.all(distance < 5e-3 * np.linalg.norm(expected.reshape(3, -1), axis=1))


def test_one_image_under_vmap_equals_the_batch(network):
    """Attacks are written for one image. Equal up to rounding: the programs differ in their shapes."""
    pictures, _ = photographs()
    images = batch(pictures[:5], 160)
    one = jax.jit(jax.vmap(lambda network, image: network(image[None])[0], (None, 0)))
    classifier = network("efficientnet_lite0")
    np.testing.assert_allclose(one(classifier, images), logits(classifier, images), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "right"),
    [
        ("efficientnet_lite0", 160, 18),
        ("efficientnet_lite0", 224, 18),
        ("efficientnet_lite2", 260, 18),
    ],
)
def test_sample_photographs_are_recognised(network, name, size, right):
    """With the evaluation crop the PyTorch package gets as many right."""
    pictures, labels = photographs()
    prediction = logits(network(name), batch(pictures, size, crop=True)).argmax(-1)
    assert int((prediction == labels).sum()) == right


@pytest.mark.slow
def test_accuracy_on_nips2017(network, nips2017):
    """All 500 images resized to 224; 458 were right when this was written."""
    rows = [line.split(",") for line in (nips2017 / "images.csv").read_text().splitlines()]
    image_id, true_label = rows[0].index("ImageId"), rows[0].index("TrueLabel")
    pictures = [Image.open(nips2017 / "images" / f"{row[image_id]}.png").convert("RGB") for row in rows[1:]]
    labels = np.array([int(row[true_label]) - 1 for row in rows[1:]])
    classifier = network("efficientnet_lite0")
    assert (logits(classifier, batch(pictures, 224)).argmax(-1) == labels).mean() >= 0.90


def test_features_have_the_size_of_a_thirty_second(network):
    classifier = network("efficientnet_lite0")
    pictures, _ = photographs()
    images = jnp.asarray(batch(pictures[:2], 97)[:, :70])
    features, logits = jax.jit(lambda network, images: (network.features(images), network(images)))(
        classifier, images
    )
    assert features.shape == (2, 3, 4, 1280)
    pooled = features.mean((1, 2))
    expected = pooled @ classifier.classifier.kernel[...] + classifier.classifier.bias[...]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), NATIVE.items())
def test_attributes(network, name, size):
    classifier = network(name)
    assert classifier.image_size == size
    assert classifier.num_classes == 1000


def test_without_the_last_layer(network):
    """As the other pooled classifiers: the published file has that layer, the network leaves it out."""
    whole = network("efficientnet_lite0")
    headless = models.create("efficientnet_lite0", pretrained=True, num_classes=0)
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)
    pooled = jax.jit(lambda network, images: network(images))(headless, images)
    assert pooled.shape == (2, 1280)
    expected = jax.jit(lambda network, images: network(images))(whole, images)
    kernel, bias = whole.classifier.kernel[...], whole.classifier.bias[...]
    # The sums of 1280 products are taken in another order.
    np.testing.assert_allclose(pooled @ kernel + bias, expected, rtol=1e-4, atol=1e-4)
