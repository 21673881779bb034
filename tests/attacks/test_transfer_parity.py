"""The attacks made to transfer, beside torchattacks on EfficientNet-Lite0 with its published weights."""

import jax
import numpy as np
import pytest
import torch
import torchattacks
from lite0 import logits

from srdef import attacks, victims

pytestmark = pytest.mark.slow

EPSILON, STEPS = 1 / 255, 4
ALPHA = EPSILON / STEPS
KEY = jax.random.key(0)


# Ours, theirs, and whether both take the same steps, as nothing is drawn. (VNI has the parts of NI and VMI.)
CASES = {
    "nifgsm": (
        attacks.nifgsm(EPSILON, steps=STEPS),
        lambda model: torchattacks.NIFGSM(model, EPSILON, ALPHA, STEPS, 1.0),
        True,
    ),
    "sinifgsm": (
        attacks.sinifgsm(EPSILON, steps=STEPS, copies=3),
        lambda model: torchattacks.SINIFGSM(model, EPSILON, ALPHA, STEPS, 1.0, m=3),
        True,
    ),
    # Without its resizing, which TIFGSM has by default.
    "tifgsm": (
        attacks.tifgsm(EPSILON, steps=STEPS),
        lambda model: torchattacks.TIFGSM(model, EPSILON, ALPHA, STEPS, 1.0, diversity_prob=0.0),
        True,
    ),
    "vmifgsm": (
        attacks.vmifgsm(EPSILON, steps=STEPS, neighbours=3),
        lambda model: torchattacks.VMIFGSM(model, EPSILON, ALPHA, STEPS, 1.0, N=3, beta=1.5),
        False,
    ),
    # torchattacks shrinks the image onto a canvas of its own size; the authors' code, and ours, enlarge both.
    # Its gradients are those of another size, for which 1/255 is not enough.
    "mdi2fgsm": (
        attacks.mdi2fgsm(8 / 255, step_size=1 / 255, steps=8),
        lambda model: torchattacks.DIFGSM(model, 8 / 255, 1 / 255, 8, 1.0, diversity_prob=0.5),
        False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fools_as_often_as_torchattacks(name, classifier, photographs, torch_model):
    images, labels = photographs
    ours, theirs, same = CASES[name]
    result = attacks.perturb(ours, victims.Undefended(classifier), images, labels, key=KEY)
    torch.manual_seed(0)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    attacked = theirs(torch_model)(inputs, torch.from_numpy(labels.astype(np.int64))).numpy()
    attacked = attacked.transpose(0, 2, 3, 1)
    fooled = np.asarray(logits(classifier, attacked).argmax(-1)) != labels
    equal = (np.abs(attacked - result.images) < ALPHA / 2).mean()
    ratio = np.median(result.l2) / np.median(
        np.linalg.norm((attacked - images).reshape(len(images), -1), axis=1)
    )
    # One image: what is drawn, and signs of gradients that are zero but for rounding, differ.
    assert abs(int(result.success.sum()) - int(fooled.sum())) <= 1
    if same:
        # The last bits of gradients turn some signs, and each iteration goes on from there.
        assert equal > 0.9
        assert ratio == pytest.approx(1, abs=0.01)
