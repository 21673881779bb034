"""What all tests of attacks share."""

import jax
import lite0
import numpy as np
import pytest

from srdef import datasets, models


@pytest.fixture(autouse=True)
def strict_broadcasting(request):
    """An attack adds no arrays of different ranks: a scalar for each class would become one for each column.

    Networks do (a mean for each channel), so not where a test takes a real one.
    """
    if request.node.get_closest_marker("slow") or "network" in request.fixturenames:
        yield
        return
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def quick_compilation(request):
    """Small victims take no time beside the compilation of what attacks them: without XLA's optimizations.

    Real networks would take several times as long.
    """
    real = "classifier" in request.fixturenames or "real_network" in request.node.name
    jax.config.update("jax_disable_most_optimizations", not real)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def classifier():
    return models.create("efficientnet_lite0", pretrained=True)


@pytest.fixture(scope="module")
def photographs(request, classifier):
    """The sample photographs that the classifier gets right, and their labels."""
    images, labels = datasets.load("imagenet_samples", size=getattr(request.module, "SIZE", lite0.SIZE))
    right = np.asarray(lite0.logits(classifier, images).argmax(-1)) == labels
    return images[right], labels[right].astype(np.int64)


@pytest.fixture(scope="module")
def torch_model(request):
    """The same network in PyTorch."""
    from srdef.commands.benchmarks.attacks import torch_network

    return torch_network(getattr(request.module, "SIZE", lite0.SIZE))
