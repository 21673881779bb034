"""Multiply-accumulates beside a count by hooks in PyTorch networks, and the tables made of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from flax import nnx
from spandrel_reference import SRVGGNetCompact
from timm_reference import timm

from srdef.commands import network_table
from srdef.errors import InputError
from srdef.models import cost
from srdef.models.registry import without_weights

DOCUMENT = Path(__file__).parents[2] / "docs/reference/networks.md"


def torch_multiply_accumulates(network, side):
    """Of every convolution and dense layer that runs, from its weight and the size of what it gives."""
    total = 0

    def count(layer, inputs, output):
        nonlocal total
        places = output[0].numel() // len(layer.weight)
        total += places * layer.weight.numel()

    for layer in network.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    return total


@pytest.mark.parametrize(
    ("name", "side", "reference"),
    [
        # Depthwise convolutions, which srdef computes in two ways.
        ("efficientnet_lite0", 96, lambda: EfficientNet.from_name("efficientnet-lite0", image_size=96)),
        ("compact", 24, lambda: SRVGGNetCompact(num_feat=64, num_conv=16, upscale=4)),
        pytest.param(
            "resnet50_torchvision", 64, lambda: timm.create_model("resnet50"), marks=pytest.mark.slow
        ),
        pytest.param("inception_v3", 107, lambda: timm.create_model("inception_v3"), marks=pytest.mark.slow),
    ],
)
def test_equals_a_count_in_torch(name, side, reference):
    network = without_weights(name)
    assert cost.multiply_accumulates(network, side, side) == torch_multiply_accumulates(reference(), side)


def test_programs_inside_programs_are_counted():
    """A product inside a jitted function inside a branch: 3 · 5 · 7."""

    def network(x):
        inner = jax.jit(lambda a: a @ jnp.ones((5, 7)))
        return jax.lax.cond(x.sum() > 0, inner, lambda a: jnp.zeros((3, 7)), jnp.ones((3, 5)))

    class Network(nnx.Module):
        def __call__(self, x):
            return network(x)

    assert cost.multiply_accumulates(Network(), 2, 2) == 3 * 5 * 7


def test_parameters_leave_out_statistics():
    network = without_weights("resnet50_torchvision")
    assert cost.parameter_count(network) == 25_557_032  # torchvision's num_params


@pytest.mark.slow
def test_the_document_is_up_to_date():
    """`python -m experiments.network_table --document=docs/reference/networks.md` makes it so."""
    assert network_table.replaced(DOCUMENT) == DOCUMENT.read_text(encoding="utf-8")


def test_a_file_without_marks(tmp_path):
    file = tmp_path / "notes.md"
    file.write_text("no table here")
    with pytest.raises(InputError, match=r"notes\.md must have the marks"):
        network_table.replaced(file)
