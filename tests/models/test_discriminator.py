from itertools import pairwise

import jax
import numpy as np
import pytest
import torch
import torch_layers
from flax import nnx

from srdef.errors import InputError
from srdef.models.discriminator import Discriminator
from srdef.models.registry import initialise
from srdef.weights import loading


class Rows(torch.nn.Module):
    """Flatten in the order of rows, columns, channels."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def transcription(network):
    """The discriminator of the paper's Figure 4 in PyTorch's own layers; its strides are 1 2 1 2 1 2 1 2."""
    layers = [torch_layers.convolution(network.stem, 1), torch.nn.LeakyReLU(0.2)]
    for i, block in enumerate(network.blocks):
        layers += [
            torch_layers.convolution(block.conv, 2 - i % 2),
            torch_layers.batch_norm(block.norm),
            torch.nn.LeakyReLU(0.2),
        ]
    layers += [
        Rows(),
        torch_layers.linear(network.dense),
        torch.nn.LeakyReLU(0.2),
        torch_layers.linear(network.classifier),
    ]
    return torch.nn.Sequential(*layers)


def randomised(size, rng):
    network = initialise(lambda: Discriminator(size, features=8, hidden=12, rngs=nnx.Rngs(0)))
    tensors = {
        name: rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        if name.endswith(("scale", "var"))
        else array + rng.normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in loading.flatten(network).items()
    }
    loading.load(network, tensors, "random numbers")
    return network


@pytest.mark.parametrize("size", [pytest.param(32, marks=pytest.mark.slow), 37])
@pytest.mark.parametrize("training", [False, True])
def test_equals_torch(size, training, rng):
    """Odd sizes too; in train mode both normalise with the batch. float32 rounding gives 1e-6."""
    network = randomised(size, rng)
    reference = transcription(network).train(training)
    x = rng.random((3, size, size, 3), np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(2 * x - 1).permute(0, 3, 1, 2))[:, 0]
    if training:
        network.train()
    actual = nnx.jit(lambda network, x: network(x))(network, x)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert actual.shape == (3,)
    assert np.std(actual) > 1e-3


def test_the_papers_size():
    """Counted from Figure 4 for patches of 96 pixels: the last feature map is 6x6x512."""
    network = nnx.eval_shape(lambda: Discriminator(96, rngs=nnx.Rngs(0)))
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    kernels = 9 * (3 * 64 + sum(a * b for a, b in pairwise(widths)))
    others = 64 + 2 * sum(widths[1:]) + 6 * 6 * 512 * 1024 + 1024 + 1024 + 1
    assert sum(x.size for x in jax.tree.leaves(nnx.state(network, nnx.Param))) == kernels + others
    assert len(network.blocks) == 7  # and the first convolution: eight


def test_impossible_sizes():
    with pytest.raises(InputError, match="at least 1, not 0, 64 and 1024"):
        Discriminator(0, rngs=nnx.Rngs(0))
