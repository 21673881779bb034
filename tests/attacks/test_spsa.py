"""SPSA beside torchattacks, and on a defense that has no gradient."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import torch
import torchattacks
from flax import struct

from srdef import attacks
from srdef.victims import Defended, EstimatedGradient, Undefended

KEY = jax.random.key(0)
SAMPLES = 24


class Twin(torch.nn.Module):
    """`linear_victims.Smooth` in PyTorch."""

    def __init__(self, network):
        super().__init__()
        self.first, self.second = (
            torch.nn.Parameter(torch.tensor(np.asarray(part[...])))
            for part in (network.first, network.second)
        )

    def forward(self, images):
        flat = images.permute(0, 2, 3, 1).reshape(len(images), -1)
        return torch.tanh(flat @ self.first) @ self.second


@pytest.fixture(scope="module")
def problem():
    network = linear_victims.Smooth(np.random.default_rng(0))
    image = np.random.default_rng(1).uniform(0.2, 0.8, linear_victims.SHAPE).astype(np.float32)
    return network, image, int(network(image[None]).argmax())


@pytest.mark.parametrize("targeted", [False, True])
def test_it_takes_the_steps_of_torchattacks(problem, targeted, monkeypatch):
    """With the same directions. The quotients of differences of float32 have errors of about 1e-5."""
    network, image, label = problem
    label = (label + 2) % 5 if targeted else label
    victim, steps = Undefended(network), 8
    drawn = []
    for step in range(1, steps + 1):
        # As `EstimatedGradient` draws them.
        key = jax.random.fold_in(KEY, step)
        keys = jax.random.split(jax.random.fold_in(key, SAMPLES), SAMPLES)
        draws = [jax.random.rademacher(one, image.shape, jnp.float32) for one in keys]
        drawn.append(np.moveaxis(np.stack(draws), -1, 1)[:, None])
    left = [*drawn]

    def bernoulli_(tensor):
        return tensor.copy_(torch.tensor((left.pop(0) + 1) / 2))

    monkeypatch.setattr(torch.Tensor, "bernoulli_", bernoulli_)
    torch_attack = torchattacks.SPSA(
        Twin(network), eps=0.05, delta=0.01, lr=0.02, nb_iter=steps, nb_sample=SAMPLES, max_batch_size=SAMPLES
    )
    if targeted:
        torch_attack.set_mode_targeted_by_label(quiet=True)
    theirs = torch_attack(torch.tensor(np.moveaxis(image, -1, 0)[None]), torch.tensor([label]))
    assert left == []

    options = {"learning_rate": 0.02, "samples": SAMPLES, "targeted": targeted, "stop_early": False}
    ours = attacks.spsa(0.05, steps=steps, **options)(victim, image, jnp.int32(label), KEY)
    theirs = np.moveaxis(theirs[0].numpy(), 0, -1)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert np.abs(theirs - image).max() > 0.04
    one = attacks.spsa(0.05, steps=1, **options)(victim, image, jnp.int32(label), KEY)
    assert np.abs(np.asarray(one) - theirs).max() > 0.02


@struct.dataclass
class Coarse:
    """Images of eight levels: a defense whose gradient is zero."""

    random = False
    differentiable = False

    def __call__(self, image, key):
        return jnp.round(7 * image) / 7


def test_a_defense_without_a_gradient_is_no_obstacle():
    network = linear_victims.linear(5)
    images = linear_victims.images(12)
    victim = Defended(network, Coarse())
    labels = np.asarray(network(np.round(7 * images) / 7).argmax(axis=-1))
    attack = attacks.spsa(0.2, steps=30, samples=32, radius=0.1)
    found = attacks.perturb(attack, victim, images, labels, key=KEY)
    assert found.success.mean() > 0.8
    assert not found.zero_gradient.all()
    with pytest.warns(UserWarning, match="gradient of exactly zero"):
        blind = attacks.perturb(attacks.ifgsm(0.2, steps=30), victim, images, labels, key=KEY)
    assert not blind.success.any()
    # NES is PGD with normal directions.
    seen = EstimatedGradient(victim, 32, 0.1, "gaussian")
    assert attacks.perturb(attacks.pgd(0.2, steps=30), seen, images, labels, key=KEY).success.mean() > 0.8


def test_it_ends_at_the_first_success(problem):
    network, image, label = problem
    options = {"steps": 40, "samples": 64, "learning_rate": 0.02}
    images, labels = image[None], np.array([label])
    victim = Undefended(network)
    early = attacks.perturb(attacks.spsa(0.3, **options), victim, images, labels, key=KEY)
    late = attacks.perturb(attacks.spsa(0.3, stop_early=False, **options), victim, images, labels, key=KEY)
    assert early.success.all()
    assert late.success.all()
    assert early.steps[0] < late.steps[0] == 40
    assert early.l2[0] < late.l2[0]
