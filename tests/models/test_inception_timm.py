"""Inception-v3 and Inception-ResNet-v2 beside a second, independent implementation: timm in PyTorch."""

import sys
from functools import partial

import keras_reference
import numpy as np
import pytest
import torch
from flax import nnx
from timm_reference import timm

from srdef.models.registry import without_weights
from srdef.weights import loading


def random_network(name):
    """A network in which no weight or statistic has its initial value."""
    network = without_weights(name)
    rng = np.random.default_rng(0)
    tensors = {}
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        key, shape = ".".join(map(str, path)), variable.shape
        if key.endswith("kernel"):
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        else:
            value = rng.uniform(0.5, 1.5, shape) if key.endswith("var") else rng.normal(0, 0.3, shape)
        tensors[key] = value.astype(np.float32)
    loading.load(network, tensors, "random numbers")
    return network


def layers(module):
    """Convolutions, normalisations and dense layers in the order in which they are applied."""
    if isinstance(module, (nnx.Conv, nnx.BatchNorm, nnx.Linear)):
        yield module
    elif isinstance(module, nnx.List):
        for child in module:
            yield from layers(child)
    else:
        for name in ORDER:
            if hasattr(module, name):
                yield from layers(getattr(module, name))


ORDER = [
    "conv",
    "norm",
    *(f"conv{i}" for i in range(1, 6)),
    "stem",
    "layers",
    "fork",
    "branches",
    "mixed_5b",
    "block35",
    "mixed_6a",
    "block17",
    "mixed_7a",
    "block8",
    "conv_7b",
    "mixed",
    "project",
    "classifier",
]


def copy(network, reference):
    """Put the weights of `network` into timm's, layer by layer; its scales stay 1, and ours has none."""
    kinds = (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)
    theirs = [module for module in reference.modules() if isinstance(module, kinds)]
    for ours, module in zip(layers(network), theirs, strict=True):
        if isinstance(ours, nnx.BatchNorm):
            values = {"bias": ours.bias, "running_mean": ours.mean, "running_var": ours.var}
        else:
            values = {"weight": ours.kernel} | ({"bias": ours.bias} if ours.bias is not None else {})
        for name, value in values.items():
            array = np.array(value[...])
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            assert getattr(module, name).shape == array.shape
            getattr(module, name).data.copy_(torch.tensor(array))


@pytest.mark.parametrize(
    "name", ["inception_v3", pytest.param("inception_resnet_v2", marks=pytest.mark.slow)]
)
def test_equals_timm(name, monkeypatch):
    """1e-4 of the largest value; float32 rounding gives 1e-6."""
    if name == "inception_v3":
        # The one difference: timm's average pools count the padding, those of the original do not.
        pool = partial(torch.nn.functional.avg_pool2d, count_include_pad=False)
        monkeypatch.setattr(sys.modules["timm.models.inception_v3"].F, "avg_pool2d", pool)
    network = random_network(name)
    reference = timm.create_model(name).eval()
    copy(network, reference)
    images = keras_reference.photographs(107, 91)
    with torch.no_grad():
        features = reference.forward_features(torch.tensor(2 * images - 1).permute(0, 3, 1, 2))
        logits = reference.forward_head(features)
    actual_logits, actual_features = keras_reference.our_outputs(network, images)
    assert keras_reference.difference(actual_logits, logits.numpy()) < 1e-4
    assert keras_reference.difference(actual_features, features.permute(0, 2, 3, 1).numpy()) < 1e-4
    assert keras_reference.difference(actual_logits[0], actual_logits[1]) > 0.01
