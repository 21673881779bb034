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


@pytest.mark.parametrize("name", ["AutoAttack", "AutoAttack-10"])
def test_both_libraries_take_the_same_steps(name):
    """torchattacks' AutoAttack takes a tenth of AutoAttack's steps if nobody says otherwise."""
    steps = 10 if name.endswith("-10") else 100
    ours = cifar.ATTACKS[name]()
    theirs = cifar.torch_autoattack(torch.nn.Identity(), steps)._autoattack.attacks
    assert [type(attack).__name__ for attack in theirs] == ["APGD", "APGDT", "FAB", "Square"]
    assert ours.names == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert [attack.steps for attack in ours.members[:3]] == [steps] * 3
    assert [attack.steps for attack in theirs[:3]] == [steps] * 3
    assert [attack.targets for attack in ours.members[1:3]] == [9, 9]
    assert [attack.n_target_classes for attack in theirs[1:3]] == [9, 9]
    assert ours.members[3].queries == theirs[3].n_queries == 5000
    assert ours.members[3].rescale == theirs[3].rescale_schedule is False


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    """4000 images of 64 pixels are 200 MB of float32, and several times that with what is made of them."""
    few, many = (memory.measure(images, side=64, batch=100) for images in (300, 4000))
    assert 100 < few["peak_mb"] < many["peak_mb"] + 100
    assert many["peak_mb"] < few["peak_mb"] + 150
    assert many["seconds"] > few["seconds"]
