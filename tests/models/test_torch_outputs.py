"""What PyTorch modules return: logits, with or without axes of one, and nothing else."""

import jax
import numpy as np
import pytest
import torch

from srdef import attacks, models, victims
from srdef.errors import InputError


class Returns(torch.nn.Module):
    """Takes images of any size."""

    def __init__(self, change):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 5, 1)
        self.change = change

    def forward(self, x):
        return self.change(self.convolution(x))


def pooled(maps):
    return maps.mean((2, 3))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda maps: maps, r"a tensor \(1, 5, 224, 224\) for 1 images"),
        (lambda maps: (pooled(maps), maps), "a tuple for 1 images"),
        (lambda maps: {"logits": pooled(maps)}, "a dict for 1 images"),
        (lambda maps: pooled(maps).mean(1), r"a tensor \(1,\) for 1 images"),
        (lambda maps: pooled(maps)[0][None].repeat(2, 1), r"a tensor \(2, 5\) for 1 images"),
    ],
)
def test_what_is_no_logits_is_said_at_once(change, found):
    with pytest.raises(InputError, match=rf"Returns must return logits \(N, num_classes\), not {found}"):
        models.from_torch(Returns(change).eval())


def test_with_a_number_of_classes_it_is_said_when_it_is_attacked():
    model = models.from_torch(Returns(lambda maps: maps).eval(), num_classes=5)
    images, labels = np.full((2, 8, 8, 3), 0.5, np.float32), np.zeros(2, int)
    with pytest.raises(InputError, match=r"not a tensor \(1, 5, 8, 8\) for 1 images"):
        attacks.perturb(attacks.fgsm(0.1), victims.Undefended(model), images, labels, key=jax.random.key(0))


def test_axes_of_one_pixel_are_no_classes():
    flat, tall = (Returns(c).eval() for c in (pooled, lambda maps: pooled(maps)[..., None, None]))
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 3)).astype(np.float32)
    model = models.from_torch(tall)
    assert model.num_classes == 5
    np.testing.assert_array_equal(model(images), models.from_torch(flat)(images))
