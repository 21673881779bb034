import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from lowering import lower_for_accelerators

from srdef import models
from srdef.cpu.gradients import value_and_grad
from srdef.errors import InputError
from srdef.models.edsr import EDSR
from srdef.models.registry import without_weights
from srdef.weights import catalog, loading

SMALL = {"blocks": 1, "features": 4}


def test_names():
    assert {"efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"} <= set(models.list_names())
    assert {"edsr_baseline_x2", "compact"} <= set(models.list_names())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.create("vgg"), "unknown model 'vgg'; choose from: .*efficientnet_lite0"),
        (
            lambda: models.create("efficientnet_lite0", classes=10),
            "model 'efficientnet_lite0' has no option 'classes'; its options are: num_classes$",
        ),
        (
            lambda: models.create("efficientnet_lite0", rngs=nnx.Rngs(0)),
            "has no option 'rngs'; its options are: num_classes$",
        ),
        (lambda: models.create("edsr_x2", scale=3), "has no option 'scale'; its options are: none$"),
        (lambda: models.create("edsr", pretrained=True), "'edsr' has no trained weights; those that have:"),
        (
            lambda: models.create("efficientnet_lite0", pretrained=True, weights="a.npz"),
            "either pretrained=True or weights",
        ),
        (
            lambda: models.create("efficientnet_lite0", pretrained=True, num_classes=10),
            r"classifier\.kernel has shape \(1280, 1000\), expected \(1280, 10\)",
        ),
        (lambda: models.create("edsr", weights="none.npz"), r"none\.npz: cannot be read"),
        (lambda: models.create("squeezenet", pretrained="no"), "pretrained must be True or False, not 'no'"),
        (lambda: models.create("squeezenet", seed="a"), "seed must be an integer of at least 0, not 'a'"),
        (
            lambda: models.create("squeezenet", num_classes=0),
            "num_classes must be an integer of at least 1, not 0",
        ),
        (lambda: models.create("edsr", blocks=2.5), "model 'edsr': blocks must be an integer of at least 0"),
        (lambda: models.create("edsr", scale=True), "scale must be a number, not True"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_random_weights_follow_the_seed():
    first, same, other = (loading.flatten(models.create("edsr", seed=seed, **SMALL)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["head.kernel"], same["head.kernel"])
    assert np.abs(first["head.kernel"] - other["head.kernel"]).max() > 0.01
    assert len({first[f"{name}.kernel"].ravel()[0].item() for name in ("head", "body_end", "tail")}) == 3


def test_random_weights_keep_the_size_of_signals():
    """Of variance 2 / fan-out, with batch normalisation that does nothing yet, logits stay finite."""
    network = models.create("efficientnet_lite0", num_classes=10)
    logits = jax.jit(lambda network, x: network(x))(network, np.ones((2, 33, 47, 3), np.float32))
    assert logits.shape == (2, 10)
    assert network.num_classes == 10
    assert np.all(np.isfinite(logits))
    assert np.abs(logits).max() < 100


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_weights_in_our_own_layout(tmp_path, suffix):
    network = models.create("edsr", seed=3, **SMALL)
    path = tmp_path / f"edsr.{suffix}"
    if suffix == "npz":
        np.savez(path, **loading.flatten(network))
    else:
        loading.save_safetensors(network, path)
    loaded = models.create("edsr", weights=str(path), **SMALL)
    for name, array in loading.flatten(network).items():
        np.testing.assert_array_equal(loading.flatten(loaded)[name], array)
    assert jax.tree.structure(loaded) == jax.tree.structure(network)


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod."])
def test_safetensors_in_the_layout_of_pytorch(tmp_path, prefix):
    """Told from srdef's own by the names."""
    path = catalog.locate(catalog.entry("efficientnet_lite0"))
    published = torch.load(path, weights_only=True)
    safetensors.torch.save_file(
        {prefix + name: tensor.contiguous() for name, tensor in published.items()}, tmp_path / "a.safetensors"
    )
    found = loading.flatten(models.create("efficientnet_lite0", weights=tmp_path / "a.safetensors"))
    for name, array in loading.flatten(models.create("efficientnet_lite0", pretrained=True)).items():
        np.testing.assert_array_equal(found[name], array)


def test_a_file_much_larger_than_the_network(tmp_path):
    path = catalog.locate(catalog.entry("efficientnet_lite1"))
    (tmp_path / "a.pth").write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"a\.pth: \d+ bytes, and at most 16817504 are expected$"):
        models.create("edsr", weights=tmp_path / "a.pth", **SMALL)


def test_weights_that_are_not_finite(tmp_path):
    tensors = loading.flatten(models.create("edsr", **SMALL))
    tensors["tail.bias"] = np.full(3, np.nan, np.float32)
    np.savez(tmp_path / "a.npz", **tensors)
    with pytest.raises(InputError, match=r"a\.npz: tail\.bias is NaN or infinite in 3 of 3 elements"):
        models.create("edsr", weights=tmp_path / "a.npz", **SMALL)


def test_weights_in_the_published_layout(tmp_path):
    """The same file as `pretrained=True`, given by its path."""
    path = catalog.locate(catalog.entry("efficientnet_lite0"))
    by_path = loading.flatten(models.create("efficientnet_lite0", weights=path))
    by_name = loading.flatten(models.create("efficientnet_lite0", pretrained=True))
    published = torch.load(path, weights_only=True)
    assert len(by_path) == sum(not name.endswith("num_batches_tracked") for name in published)
    np.testing.assert_array_equal(by_path["classifier.kernel"], published["_fc.weight"].numpy().T)
    for name, array in by_name.items():
        np.testing.assert_array_equal(by_path[name], array)


def test_a_wrong_hash(monkeypatch):
    entry = dataclasses.replace(catalog.entry("efficientnet_lite0"), sha256="0" * 64)
    monkeypatch.setitem(catalog.CATALOG, "efficientnet_lite0", entry)
    with pytest.raises(
        InputError, match=r"efficientnet-lite0-57934424\.pth: SHA-256 is 5793\w+, expected 000"
    ):
        models.create("efficientnet_lite0", pretrained=True)


def test_weights_of_another_network():
    path = catalog.locate(catalog.entry("efficientnet_lite1"))
    with pytest.raises(
        InputError, match=r"lite1-77cc7160\.pth does not fit EfficientNetLite: unknown blocks"
    ):
        models.create("efficientnet_lite0", weights=path)


# The others are these with other weights or sizes.
ARCHITECTURES = [
    *("compact_x2", "edsr_small_x2", "srresnet_x2", "efficientnet_lite0", "squeezenet"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("vgg19", "inception_v3", "inception_resnet_v2", "resnet50", "resnet50_torchvision")
    ),
]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_lowers_for_accelerators(name):
    """With the gradient, which takes a way of its own on a CPU."""
    network = models.create(name)

    def gradient(images, _):
        return value_and_grad(lambda x: (network(x).sum(), None), images)[1]

    lower_for_accelerators(gradient, np.zeros((1, 96, 96, 3), np.float32), jax.random.key(0))


@pytest.mark.parametrize("name", models.list_names())
def test_networks_take_color_images_of_floats(name):
    """Gray ones would become colored by the mean that is subtracted, levels would be taken for values."""
    network = without_weights(name)

    def output(shape, dtype):
        images = jax.ShapeDtypeStruct(shape, dtype)
        return jax.eval_shape(lambda network, images: network(images), network, images)

    assert output((2, 96, 96, 3), jnp.float32).dtype == jnp.float32
    gray, alone, color = (2, 96, 96, 1), (96, 96, 3), (2, 96, 96, 3)
    for shape, dtype in ((gray, jnp.float32), (alone, jnp.float32), (color, jnp.uint8)):
        with pytest.raises(InputError, match="the network takes images"):
            output(shape, dtype)


def test_random_weights_are_those_of_the_keys_of_flax():
    """Which are counted in another way for srdef's own networks."""
    expected = EDSR(rngs=nnx.Rngs(3), **SMALL)
    found = models.create("edsr", seed=3, **SMALL)
    for ours, theirs in zip(*(jax.tree.leaves(nnx.state(m)) for m in (found, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)  # drawn by one program, and by many


def test_a_network_of_ones_own_draws_anew_in_every_call(monkeypatch):
    """It keeps the keys that it was made with, as dropout does; and it is compiled once."""
    traced = []

    class Own(nnx.Module):
        def __init__(self, rngs):
            self.dense, self.dropout = nnx.Linear(3, 2, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, images):
            traced.append(images)
            return self.dense(self.dropout(images.mean((1, 2))))

    monkeypatch.setattr(models.REGISTRY, "_builders", dict(models.REGISTRY._builders))
    models.REGISTRY.register("own_with_dropout")(Own)
    network = models.create("own_with_dropout")
    network.train()
    call = nnx.jit(lambda network, images: network(images))
    drawn = [np.asarray(call(network, np.ones((64, 2, 2, 3), np.float32))) for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()
    assert len(traced) == 1
