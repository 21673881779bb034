"""The losses that attacks climb: their values by the formulas, and what attacks make of each."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from registered import every

from srdef import attacks
from srdef.attacks import losses
from srdef.errors import InputError
from srdef.victims import ExpectationOverTransformation, Undefended, Victim

KEY = jax.random.key(0)
NAMES = ("cross_entropy", "margin", "dlr", "logit")
# One of each family that takes a loss.
ATTACKS = {
    "fgsm": {},
    "mifgsm": {"steps": 5},
    "mdi2fgsm": {"steps": 5, "step_size": 0.02},
    "pgd": {"steps": 5, "restarts": 2},
    "apgd": {"steps": 5},
}


@jax.tree_util.register_static
class Given(Victim):
    """Logits that are the first values of the image; a random one adds what the key draws."""

    num_classes = 0  # of the instance

    def __init__(self, classes, noise=0.0):
        self.num_classes, self.noise = classes, noise

    def __call__(self, image, key):
        drawn = self.noise * jax.random.normal(key, (self.num_classes,))
        return image.ravel()[: self.num_classes] + drawn


def by_hand(name, logits, label):
    """The formulas in NumPy, float64."""
    logits = np.asarray(logits, np.float64)
    ordered = np.sort(logits)[::-1]
    lead = np.delete(logits, label).max() - logits[label]
    return {
        "cross_entropy": np.log(np.log(np.exp(logits - logits[label]).sum())),
        "margin": lead,
        "dlr": lead / (ordered[0] - ordered[2]),
        "logit": -logits[label],
    }[name]


@pytest.mark.parametrize("label", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_values_by_the_formulas(name, label):
    logits = np.array([2.0, -1.0, 5.0, 4.0, 0.5], np.float32)
    image = logits.reshape(1, 5, 1)
    value, found = losses.loss_to_climb(Given(5), image, label, KEY, name)
    np.testing.assert_array_equal(found, logits)
    assert float(value) == pytest.approx(by_hand(name, logits, label), rel=1e-5)
    towards, _ = losses.loss_to_climb(Given(5), image, label, KEY, name, targeted=True)
    expected = -float(value)
    if name == "dlr":  # equation (7), leaving the most likely class but the target
        leading = np.delete(logits, label).max()
        expected = -(leading - logits[label]) / (5 - (2 + 0.5) / 2)
    assert float(towards) == pytest.approx(expected, rel=1e-5)


def test_a_targeted_ratio_has_a_gradient_where_the_target_is_third():
    """Minus the untargeted one is 1 there, whatever the logits are."""
    image = jnp.array([2.0, -1.0, 5.0, 4.0, 0.5]).reshape(1, 5, 1)

    def gradient(loss, targeted):
        def climbed(x):
            return losses.loss_to_climb(Given(5), x, 0, KEY, loss, targeted)[0]

        return np.asarray(jax.grad(climbed)(image)).ravel()

    assert np.abs(gradient("dlr", False)).max() < 1e-6
    towards = gradient("dlr", True)
    assert towards[0] > 0
    assert towards[2] < 0


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_averaged_over_the_draws(name):
    """Cross-entropy itself, of which the logarithm is climbed; of the others the loss."""
    image = jnp.array([2.0, -1.0, 5.0, 4.0, 0.5]).reshape(1, 5, 1)
    victim = ExpectationOverTransformation(Given(5, noise=1.0), 6, "loss")
    value, _ = losses.loss_to_climb(victim, image, 3, KEY, name)
    draws = [by_hand(name, Given(5, 1.0)(image, key), 3) for key in jax.random.split(KEY, 6)]
    mean = np.log(np.mean(np.exp(draws))) if name == "cross_entropy" else np.mean(draws)
    assert float(value) == pytest.approx(mean, rel=1e-5)


def run(name, images, labels, classifier, **options):
    attack = attacks.create(name, epsilon=0.2, **ATTACKS[name], **options)
    return attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", NAMES)
@pytest.mark.parametrize("name", every(ATTACKS))
def test_every_attack_climbs_every_loss(name, loss, targeted):
    classifier = linear_victims.linear(5)
    images = linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    result = run(
        name, images, (labels + 1) % 5 if targeted else labels, classifier, loss=loss, targeted=targeted
    )
    # Minus a logit may fall while another of the other classes falls too: most images, not each of them. And
    # where the label is third in what DI²-FGSM shows, the untargeted ratio is 1, whatever the logits are.
    most = loss == "logit" or name == "fgsm" or (name == "mdi2fgsm" and loss == "dlr" and not targeted)
    assert result.success.mean() >= (0.5 if most else 1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", every(ATTACKS))
def test_a_function_is_climbed_as_the_loss_of_its_name(name, targeted):
    classifier = linear_victims.linear(5)
    images = linear_victims.images(4)
    labels = (linear_victims.predictions(classifier, images) + targeted) % 5
    for loss, function in [("margin", losses.margin), ("logit", losses.negative_logit)]:
        by_name, own = (
            run(name, images, labels, classifier, loss=x, targeted=targeted) for x in (loss, function)
        )
        np.testing.assert_array_equal(by_name.images, own.images)


def test_apgd_t_takes_other_losses():
    classifier = linear_victims.linear(5)
    images = linear_victims.images(6)
    labels = linear_victims.predictions(classifier, images)
    for loss in NAMES:
        attack = attacks.apgd_t(0.1, steps=10, targets=4, loss=loss)
        assert attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY).success.all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attacks.pgd(loss="ce"), "unknown loss 'ce'; choose from: cross_entropy, margin, dlr, logit"),
        (lambda: attacks.fgsm(loss=3), "unknown loss 3"),
        (lambda: attacks.apgd_t(loss="hinge"), "unknown loss 'hinge'"),
        (
            lambda: run("fgsm", *single(), loss=lambda logits, label: logits),
            r"loss must return a scalar for the logits of one image",
        ),
        (lambda: run("fgsm", *single(classes=2), loss="dlr"), "needs at least 3 classes; the victim has 2"),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def single(classes=5):
    return linear_victims.images(1), np.zeros(1, int), linear_victims.linear(classes)
