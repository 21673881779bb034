"""What the benchmarks compare must be the same thing in both libraries."""

import numpy as np
import pytest
import torch
from flax import nnx

from srdef.commands.benchmarks import cifar, memory


def test_the_small_network_is_the_same_in_pytorch():
    """1e-5 of the largest logit; float32 rounding gives 1e-6."""
    network, images = cifar.SmallNetwork(nnx.Rngs(0)), cifar.small_images(1)
    assert images.shape == (100, 32, 32, 3)
    expected = np.asarray(network(images))
    found = cifar.torch_twin(network)(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    """4000 images of 64 pixels are 200 MB of float32, and several times that with what is made of them."""
    few, many = (memory.measure(images, side=64, batch=100) for images in (300, 4000))
    assert 100 < few["peak_mb"] < many["peak_mb"] + 100
    assert many["peak_mb"] < few["peak_mb"] + 150
    assert many["seconds"] > few["seconds"]
