"""srdef's attacks beside foolbox and torchattacks on EfficientNet-Lite0 with its published weights."""

import foolbox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchattacks
from lite0 import logits

from srdef import attacks
from srdef.victims import Undefended

pytestmark = pytest.mark.slow

EPSILON = 4 / 255
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def foolbox_model(classifier):
    return foolbox.JAXModel(lambda x: logits(classifier, x), bounds=(0, 1), data_format="channels_last")


def distances(attacked, images):
    return np.linalg.norm((np.asarray(attacked) - images).reshape(len(images), -1), axis=1)


GRADIENT_SIGN = {
    "fgsm": (attacks.fgsm(EPSILON), lambda model: torchattacks.FGSM(model, EPSILON)),
    "ifgsm": (
        attacks.ifgsm(EPSILON, steps=5),
        lambda model: torchattacks.BIM(model, EPSILON, EPSILON / 5, 5),
    ),
    "mifgsm": (
        attacks.mifgsm(EPSILON, steps=5),
        lambda model: torchattacks.MIFGSM(model, EPSILON, EPSILON / 5, 5, 1.0),
    ),
}


@pytest.mark.parametrize("name", GRADIENT_SIGN)
def test_gradient_sign_fools_as_often_as_torchattacks(name, classifier, photographs, torch_model):
    images, labels = photographs
    ours, theirs = GRADIENT_SIGN[name]
    result = attacks.perturb(ours, Undefended(classifier), images, labels, key=KEY)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    attacked = theirs(torch_model)(inputs, torch.from_numpy(labels.astype(np.int64))).numpy()
    fooled = np.asarray(logits(classifier, attacked.transpose(0, 2, 3, 1)).argmax(-1)) != labels
    # One image: signs of gradients that are zero but for rounding differ.
    assert abs(int(result.success.sum()) - int(fooled.sum())) <= 1
    # The L2 norm counts the pixels that have moved; they are the same but for those signs.
    ratio = np.median(result.l2) / np.median(distances(attacked.transpose(0, 2, 3, 1), images))
    assert ratio == pytest.approx(1, abs=0.01)


def test_deepfool_is_as_good_as_foolbox(classifier, photographs, foolbox_model):
    images, labels = (array[:8] for array in photographs)
    result = attacks.perturb(attacks.deepfool(), Undefended(classifier), images, labels, key=KEY)
    attack = foolbox.attacks.L2DeepFoolAttack(steps=50, candidates=10, overshoot=0.02)
    _, attacked, success = attack(foolbox_model, jnp.asarray(images), jnp.asarray(labels), epsilons=None)
    assert result.success.all()
    assert np.asarray(success).all()
    assert np.median(result.l2) <= 1.02 * np.median(distances(attacked, images))


def test_carlini_wagner_is_as_good_as_foolbox(classifier, photographs, foolbox_model):
    images, labels = (array[:6] for array in photographs)
    ours = attacks.carlini_wagner(binary_search_steps=3, max_iterations=60)
    result = attacks.perturb(ours, Undefended(classifier), images, labels, key=KEY)
    attack = foolbox.attacks.L2CarliniWagnerAttack(3, 60, stepsize=5e-3, initial_const=1e-2)
    _, attacked, success = attack(foolbox_model, jnp.asarray(images), jnp.asarray(labels), epsilons=None)
    assert result.success.all()
    assert np.asarray(success).all()
    assert np.median(result.l2) <= 1.02 * np.median(distances(attacked, images))
