import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_layers
from flax import nnx

from srdef import models
from srdef.errors import InputError
from srdef.models.registry import without_weights
from srdef.weights import loading


class TorchSRResNet(torch.nn.Module):
    """Figure 4 of the paper (its generator) in PyTorch's own layers, on [0, 1] to [-1, 1]."""

    def __init__(self, network):
        super().__init__()
        self.head = torch.nn.Sequential(
            torch_layers.convolution(network.head), torch_layers.prelu(network.head_activation)
        )
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch_layers.convolution(block.conv1.conv),
                torch_layers.batch_norm(block.conv1.norm),
                torch_layers.prelu(block.activation),
                torch_layers.convolution(block.conv2.conv),
                torch_layers.batch_norm(block.conv2.norm),
            )
            for block in network.blocks
        )
        end = network.body_end
        self.end = torch.nn.Sequential(torch_layers.convolution(end.conv), torch_layers.batch_norm(end.norm))
        self.tail = torch.nn.Sequential()
        for conv, factor, activation in zip(
            network.upsample, network.stages, network.upsample_activations, strict=True
        ):
            self.tail.extend(
                [
                    torch_layers.convolution(conv),
                    torch.nn.PixelShuffle(factor),
                    torch_layers.prelu(activation),
                ]
            )
        self.tail.append(torch_layers.convolution(network.tail))

    def forward(self, x):
        head = x = self.head(x)
        for block in self.blocks:
            x = x + block(x)
        return self.tail(self.end(x) + head)


def randomised(rng, **options):
    """A network in which no bias, slope or statistic has its initial value."""
    network = models.create("srresnet", blocks=3, features=8, seed=1, **options)
    tensors = {
        name: rng.uniform(0.2, 1.5, array.shape).astype(np.float32)
        if name.endswith(("scale", "var", "slope"))
        else array + rng.normal(0, 0.1, array.shape).astype(np.float32)
        for name, array in loading.flatten(network).items()
    }
    loading.load(network, tensors, "random numbers")
    return network


@jax.jit
def run(network, images):
    return network(images)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equals_torch(scale, rng):
    """PyTorch in float64; ours rounds as float32 does, relative to the largest number of a sum."""
    network = randomised(rng, scale=scale)
    x = rng.random((2, 11, 7, 3), np.float32)
    with torch.no_grad():
        reference = TorchSRResNet(network).double().eval()
        expected = (reference(torch.tensor(x).double().permute(0, 3, 1, 2)) + 1) / 2
    actual = run(network, x)
    assert actual.shape == (2, 11 * scale, 7 * scale, 3)
    close(actual, expected.permute(0, 2, 3, 1).numpy())


def test_folding_keeps_the_function_and_the_original(rng):
    network = randomised(rng, scale=2)
    x = rng.random((1, 9, 9, 3), np.float32)
    before = run(network, x)
    folded = network.fold_batch_norm()
    # Rounding only: other products of the same numbers.
    close(run(folded, x), before)
    np.testing.assert_array_equal(run(network, x), before)
    assert not [layer for _, layer in nnx.iter_modules(folded) if isinstance(layer, nnx.BatchNorm)]


def test_number_of_parameters():
    """Counted by hand from Figure 4: 9x9 ends, 33 3x3 layers, 2 stages, 17 + 16 + ... norms and slopes."""
    network = without_weights("srresnet")
    ends = 81 * 3 * 64 + 64 + 81 * 64 * 3 + 3
    body = 33 * (9 * 64 * 64 + 64 + 2 * 64)
    stages = 2 * (9 * 64 * 256 + 256)
    slopes = 1 + 16 + 2
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
        == ends + body + stages + slopes
    )


@pytest.mark.parametrize("options", [{"scale": 5}, {"blocks": 0}])
def test_impossible_sizes(options):
    with pytest.raises(InputError, match=next(iter(options)).rstrip("s")):
        models.create("srresnet", **options)


def test_train_mode_updates_the_statistics(rng):
    network = models.create("srresnet", blocks=1, features=4, scale=2)
    network.train()

    @nnx.jit
    def forward(network):
        return network(jnp.asarray(rng.random((2, 8, 8, 3), np.float32)))

    forward(network)
    assert np.abs(network.body_end.norm.mean[...]).max() > 0
