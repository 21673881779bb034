"""AutoAttack's parts beside torchattacks on EfficientNet-Lite0 with its published weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchattacks
from art.attacks.evasion import HopSkipJump
from art.estimators.classification import BlackBoxClassifier
from lite0 import SIZE, logits

from srdef import attacks
from srdef.victims import Undefended

pytestmark = pytest.mark.slow

KEY = jax.random.key(0)


def robust_in_torch(model, attack, photographs, epsilon, norm="linf"):
    """How many images torchattacks leaves, counted as its own evaluation does."""
    images, labels = photographs
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    attacked = attack(inputs, torch.from_numpy(labels)).detach()
    with torch.no_grad():
        fooled = model(attacked).argmax(1).numpy() != labels
    change = (attacked - inputs).numpy().reshape(len(images), -1)
    size = np.linalg.norm(change, np.inf if norm == "linf" else 2, axis=1)
    return int((~fooled | (size > epsilon * (1 + 1e-4))).sum())


LEVEL = 1 / 255
# The attack by ε in both, and the ε: from where most images stand to where most fall. FAB-T and
# APGD-T try 3 targets. torchattacks counts targets by classes.
CASES = {
    "apgd-ce": (
        lambda epsilon: attacks.apgd(epsilon, steps=10),
        lambda model, epsilon: torchattacks.APGD(model, eps=epsilon, steps=10),
        (LEVEL / 8, LEVEL / 4),
    ),
    "apgd-t": (
        lambda epsilon: attacks.apgd_t(epsilon, steps=10, targets=3),
        lambda model, epsilon: torchattacks.APGDT(model, eps=epsilon, steps=10, n_classes=4),
        (LEVEL / 8, LEVEL / 4),
    ),
    "fab-t": (
        lambda epsilon: attacks.fab_t(steps=10, targets=3, epsilon=epsilon, start_radius=epsilon),
        lambda model, epsilon: torchattacks.FAB(
            model, eps=epsilon, steps=10, multi_targeted=True, n_classes=4
        ),
        (LEVEL / 8, LEVEL / 4),
    ),
    "square": (
        lambda epsilon: attacks.square(epsilon, queries=150),
        lambda model, epsilon: torchattacks.Square(model, eps=epsilon, n_queries=150, resc_schedule=False),
        (LEVEL, 3 * LEVEL),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_robust_accuracy_is_that_of_torchattacks(name, classifier, photographs, torch_model):
    images, labels = photographs
    ours, theirs, epsilons = CASES[name]
    counts = []
    for epsilon in epsilons:
        attack = attacks.autoattack(epsilon, attacks={name: ours(epsilon)})
        result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
        reference = robust_in_torch(torch_model, theirs(torch_model, epsilon), photographs, epsilon)
        counts.append((int(result.accuracy.sum()), reference))
    print(name, len(images), counts)
    # One image: starts and search directions are random, and signs amplify rounding.
    assert all(abs(a - b) <= 1 for a, b in counts), counts
    # The comparison says something only where images stand and fall.
    assert counts[0][0] > counts[-1][0]


@pytest.mark.full
def test_whole_ensemble(classifier, photographs, torch_model):
    images, labels = photographs
    counts = []
    for epsilon in (LEVEL / 8, LEVEL / 4):
        ensemble = {name: case[0](epsilon) for name, case in CASES.items()}
        attack = attacks.autoattack(epsilon, attacks=ensemble)
        result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
        theirs = torchattacks.MultiAttack([case[1](torch_model, epsilon) for case in CASES.values()])
        counts.append(
            (int(result.accuracy.sum()), robust_in_torch(torch_model, theirs, photographs, epsilon))
        )
    print(len(images), counts)
    assert all(abs(a - b) <= 1 for a, b in counts), counts


@pytest.mark.full
@pytest.mark.parametrize("epsilon", [LEVEL / 8, LEVEL / 4, LEVEL / 2], ids=["1/8", "1/4", "1/2"])
def test_standard_version_at_its_full_budget(epsilon, classifier, photographs, torch_model):
    """`version="standard"` as it is: 100 steps, 9 targets, 5000 queries."""
    images, labels = photographs
    reference = torchattacks.MultiAttack(
        [
            torchattacks.APGD(torch_model, eps=epsilon, steps=100),
            torchattacks.APGDT(torch_model, eps=epsilon, steps=100, n_classes=10),
            torchattacks.FAB(torch_model, eps=epsilon, steps=100, multi_targeted=True, n_classes=10),
            torchattacks.Square(torch_model, eps=epsilon, n_queries=5000, resc_schedule=False),
        ]
    )
    result = attacks.perturb(attacks.autoattack(epsilon), Undefended(classifier), images, labels, key=KEY)
    ours = int(result.accuracy.sum())
    theirs = robust_in_torch(torch_model, reference, photographs, epsilon)
    print(len(images), ours, theirs, result.robust_accuracy)
    assert abs(ours - theirs) <= 1


def test_l2(classifier, photographs, torch_model):
    images, labels = photographs
    counts = {}
    for epsilon in (0.03, 0.1):
        pairs = {
            "apgd": (
                attacks.apgd(epsilon, steps=10, norm="l2"),
                torchattacks.APGD(torch_model, norm="L2", eps=epsilon, steps=10),
            ),
            "fab-t": (
                attacks.fab_t(norm="l2", steps=10, targets=3, epsilon=epsilon),
                torchattacks.FAB(
                    torch_model, norm="L2", eps=epsilon, steps=10, multi_targeted=True, n_classes=4
                ),
            ),
        }
        for name, (ours, theirs) in pairs.items():
            attack = attacks.autoattack(epsilon, "l2", attacks={name: ours})
            result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
            reference = robust_in_torch(torch_model, theirs, photographs, epsilon, "l2")
            counts[name, epsilon] = int(result.accuracy.sum()), reference
    print(len(images), counts)
    assert all(abs(a - b) <= 1 for a, b in counts.values()), counts


def test_hop_skip_jump_is_as_good_as_art(classifier, photographs):
    """Median distances at equal steps, so about equal queries."""
    images, labels = (array[:3] for array in photographs)
    steps, first = 5, 50

    def predict(x):
        return np.asarray(logits(classifier, jnp.asarray(x)))

    ours = attacks.perturb(
        attacks.hop_skip_jump(steps=steps, init_num_evals=first),
        Undefended(classifier),
        images,
        labels,
        key=KEY,
    )
    wrapped = BlackBoxClassifier(predict, (SIZE, SIZE, 3), 1000, clip_values=(0, 1))
    np.random.seed(0)  # noqa: NPY002 (ART draws from it)
    theirs = HopSkipJump(
        wrapped, max_iter=steps, init_eval=first, max_eval=10_000, init_size=100, verbose=False
    )
    attacked = theirs.generate(images, y=labels)
    distances = np.linalg.norm((attacked - images).reshape(len(images), -1), axis=1)
    print(np.median(ours.l2), np.median(distances))
    assert ours.success.all()
    assert np.median(ours.l2) <= 1.2 * np.median(distances)
