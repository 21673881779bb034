"""The attacks made to transfer, against NumPy transcriptions of their algorithms, step by step."""

import functools

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import scipy.stats

from srdef import attacks, victims
from srdef.attacks.gradient_sign import NEIGHBOUR
from srdef.errors import InputError
from srdef.victims import Undefended

KEY = jax.random.key(0)
EPSILON, STEPS = 0.06, 6
ALPHA = EPSILON / STEPS
SHAPE = linear_victims.SHAPE
LABEL = 2


@functools.cache
def smooth():
    return linear_victims.Smooth(np.random.default_rng(1))


@functools.cache
def image():
    return np.random.default_rng(2).uniform(0.1, 0.9, SHAPE).astype(np.float32)


@functools.cache
def bank():
    return np.random.default_rng(3).uniform(0, 1, (4, *SHAPE)).astype(np.float32)


def gradient(x, label=LABEL, scale=1.0):
    """The gradient of the cross-entropy of tanh(x W1) W2 by hand, in float64."""
    first = np.asarray(smooth().first[...], np.float64)
    second = scale * np.asarray(smooth().second[...], np.float64)
    hidden = np.tanh(np.ravel(x) @ first)
    logits = hidden @ second
    error = np.exp(logits - logits.max())
    error /= error.sum()
    error[label] = 0
    error[label] = -error.sum()  # not 1 - p, which is zero where p rounds to 1
    return (first @ ((second @ error) * (1 - hidden**2))).reshape(SHAPE)


def ascend(gradients, momentum=1.0):
    """MI-FGSM as the authors' codes have it, with mean absolute values, and any gradient.

    `gradients(x, g, m)` returns the gradient at iteration m, and what follows it once g is known.
    """
    start = image().astype(np.float64)
    x, g = start.copy(), np.zeros(SHAPE)
    for m in range(STEPS):
        direction = gradients(x, g, m)
        g = momentum * g + direction / np.abs(direction).mean()
        x = np.clip(np.clip(x + ALPHA * np.sign(g), start - EPSILON, start + EPSILON), 0, 1)
    return x


def keys(points=1):
    """The keys of the points at which gradients are taken, as `GradientSign` derives them."""
    return [jax.random.fold_in(KEY, i + 1) for i in range(STEPS * points)]


def compare(attack, expected):
    found = attack(Undefended(smooth()), image(), LABEL, KEY)
    # Float32 against float64; a sign that differed anywhere would show as at least 2 alpha.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The loop on the host, in which every gradient is a step.
    result = attacks.perturb(attack, Undefended(smooth()), image()[None], [LABEL], key=KEY)
    assert result.steps[0] == attack.max_steps


def scaled(x, copies=5):
    return sum(gradient(x / 2**i) / 2**i for i in range(copies))


def test_nifgsm():
    compare(attacks.nifgsm(EPSILON, steps=STEPS), ascend(lambda x, g, m: gradient(x + ALPHA * g)))
    lower = attacks.nifgsm(EPSILON, steps=STEPS, momentum=0.5)
    compare(lower, ascend(lambda x, g, m: gradient(x + 0.5 * ALPHA * g), 0.5))


def test_sinifgsm():
    attack = attacks.sinifgsm(EPSILON, steps=STEPS)
    assert attack.max_steps == 5 * STEPS
    compare(attack, ascend(lambda x, g, m: scaled(x + ALPHA * g)))


def test_tifgsm():
    """The kernel of the authors and of torchattacks, with zeros beyond the border."""
    line = scipy.stats.norm.pdf(np.linspace(-3, 3, 15))
    kernel = np.outer(line, line) / np.outer(line, line).sum()

    def blurred(x, g, m):
        return scipy.ndimage.convolve(gradient(x), kernel[..., None], mode="constant")

    compare(attacks.tifgsm(EPSILON, steps=STEPS), ascend(blurred))


@pytest.mark.parametrize("name", ["vmifgsm", "vnifgsm"])
def test_variance_tuning(name):
    attack = attacks.create(name, epsilon=EPSILON, steps=STEPS, neighbours=3)
    assert attack.max_steps == 4 * STEPS
    variance = np.zeros(SHAPE)
    drawn = keys(points=4)

    def tuned(x, g, m):
        nonlocal variance
        here = gradient(x + (ALPHA * g if name == "vnifgsm" else 0))
        total = here + variance
        noise = [
            np.asarray(jax.random.uniform(jax.random.fold_in(key, NEIGHBOUR), SHAPE, minval=-1, maxval=1))
            for key in drawn[4 * m + 1 : 4 * m + 4]
        ]
        variance = np.mean([gradient(x + 1.5 * EPSILON * r) for r in noise], axis=0) - here
        return total

    compare(attack, ascend(tuned))


def test_admix():
    attack = attacks.admix(EPSILON, steps=STEPS, bank=bank())
    assert attack.max_steps == 15 * STEPS
    drawn = keys()

    def mixed(x, g, m):
        total = 0
        for i in range(3):
            key, _ = jax.random.split(jax.random.fold_in(drawn[m], i))
            other = bank()[jax.random.randint(key, (), 0, 4)]
            total = total + scaled(x + 0.2 * other)
        return total

    compare(attack, ascend(mixed))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_ssa(momentum):
    attack = attacks.ssa(EPSILON, steps=STEPS, copies=4, momentum=momentum)
    drawn = keys()

    def simulated(x, g, m):
        total = 0
        for i in range(4):
            key, _ = jax.random.split(jax.random.fold_in(drawn[m], i))
            noise_key, mask_key = jax.random.split(key)
            noise = np.asarray(jax.random.normal(noise_key, SHAPE), np.float64)
            mask = 1 + 0.5 * np.asarray(jax.random.uniform(mask_key, SHAPE, minval=-1, maxval=1), np.float64)
            # The unnormalised transforms of the authors' code.
            spectrum = scipy.fft.dctn(x + 16 / 255 * noise, axes=(0, 1))
            total = total + gradient(scipy.fft.idctn(spectrum * mask, axes=(0, 1)))
        return total

    compare(attack, ascend(simulated, momentum))


def test_fgsm_from_a_random_start():
    """Wong et al. 2020, algorithm 3: a step of 1.25 ε from a point of the ball."""
    attack = attacks.fgsm(EPSILON, random_start=True)
    noise = jax.random.uniform(jax.random.fold_in(KEY, 0), SHAPE, minval=-1, maxval=1)
    start = np.clip(image() + EPSILON * np.asarray(noise), 0, 1)
    x = start + 1.25 * EPSILON * np.sign(gradient(start))
    compare(attack, np.clip(np.clip(x, image() - EPSILON, image() + EPSILON), 0, 1))


VIEWS = {
    "scaled": (victims.ScaledCopies(copies=3),),
    "smoothed scaled": (victims.SmoothedGradient(size=3), victims.ScaledCopies(copies=2)),
    "mixed": (victims.Admix(bank=bank(), copies=2), victims.SpectrumSimulation(copies=2)),
}


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("name", VIEWS)
def test_views_and_victims_that_wrap_one_another_are_the_same(name, loss):
    """One copy a step, or all copies in every step of the plain attack."""
    victim = Undefended(smooth())
    wrapped = victim
    for view in reversed(VIEWS[name]):
        wrapped = view.replace(victim=wrapped)
    options = {"epsilon": EPSILON, "steps": 3, "loss": loss}
    viewed = attacks.nifgsm(views=VIEWS[name], **options)(victim, image(), LABEL, KEY)
    same = attacks.nifgsm(**options)(wrapped, image(), LABEL, KEY)
    np.testing.assert_allclose(viewed, same, atol=1e-6)


SURE = 150.0


class Sure(linear_victims.Smooth):
    """The same network, so sure of itself that its cross-entropy is zero in float32, but not in float64."""

    def __call__(self, images):
        return SURE * super().__call__(images)


@pytest.mark.parametrize("name", ["sinifgsm", "vmifgsm"])
def test_gradients_of_sure_networks_are_weighed_without_underflow(name):
    classifier = Sure(np.random.default_rng(1))
    logits = np.sort(np.asarray(classifier(jnp.asarray(image()[None])))[0])
    label = int(np.asarray(classifier(jnp.asarray(image()[None]))).argmax())
    assert logits[-1] - logits[-2] > 104  # where a float32 softplus is zero
    slope = functools.partial(gradient, label=label, scale=SURE)
    variance, drawn = np.zeros(SHAPE), keys(points=4)

    def tuned(x, g, m):
        nonlocal variance
        total = slope(x) + variance
        noise = [
            np.asarray(jax.random.uniform(jax.random.fold_in(key, NEIGHBOUR), SHAPE, minval=-1, maxval=1))
            for key in drawn[4 * m + 1 : 4 * m + 4]
        ]
        variance = np.mean([slope(x + 1.5 * EPSILON * r) for r in noise], axis=0) - slope(x)
        return total

    def copies(x, g, m):
        ahead = x + ALPHA * g
        return sum(slope(ahead / 2**i) / 2**i for i in range(5))

    options = {"neighbours": 3} if name == "vmifgsm" else {}
    attack = attacks.create(name, epsilon=EPSILON, steps=STEPS, **options)
    found = attack(Undefended(classifier), image(), label, KEY)
    expected = ascend(tuned if name == "vmifgsm" else copies)
    # Where weights differ by 150 times the last bits of float32 logits, single signs may turn.
    assert (np.abs(found - expected) > 1e-5).mean() < 0.05


def test_restarts_judge_the_image_itself():
    """A view that shows the victim another image must not decide which run was best."""
    classifier = linear_victims.linear(5)
    images = linear_victims.images(20)
    labels = linear_victims.predictions(classifier, images)
    views = (victims.ScaledCopies(copies=2),)
    one, four = (attacks.pgd(0.05, steps=2, step_size=0.004, restarts=n).replace(views=views) for n in (1, 4))
    assert four.max_steps == 4 * (2 * 2 + 1)
    first, best = (
        attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY) for attack in (one, four)
    )
    assert (first.success <= best.success).all()
    assert first.success.sum() < best.success.sum()
    np.testing.assert_allclose(best.images[first.success], first.images[first.success], atol=1e-6)


@pytest.mark.parametrize("name", ["nifgsm", "sinifgsm", "vmifgsm", "ssa"])
def test_targeted_descends(name):
    """With two classes, towards one is away from the other."""
    classifier = linear_victims.linear(2)
    images = linear_victims.images(3)
    labels = np.array([0, 1, 0])
    options = {"epsilon": 0.05, "steps": 3}
    away, towards = (
        attacks.perturb(
            attacks.create(name, targeted=targeted, **options), Undefended(classifier), images, y, key=KEY
        )
        for targeted, y in ((False, 1 - labels), (True, labels))
    )
    np.testing.assert_allclose(away.images, towards.images, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: attacks.nifgsm(views=("scaled",)),
            "a view must be one like victims.ScaledCopies.., not 'sc",
        ),
        *(
            (lambda make=make: make(views=victims.ScaledCopies()), "views must be a tuple of views")
            for make in (attacks.nifgsm, attacks.sinifgsm, attacks.tifgsm, attacks.ssa, attacks.vnifgsm)
        ),
        (lambda: attacks.nifgsm(views="scaled"), "views must be a tuple of views, .* not 'scaled'"),
        (
            lambda: attacks.ssa(views=(victims.ScaledCopies(Undefended(smooth())),)),
            "ScaledCopies.. without one",
        ),
        (lambda: attacks.sinifgsm(copies=0), "copies must be an integer of at least 1, not 0"),
        (lambda: attacks.tifgsm(size=4), "size must be an odd number of at least 1, not 4"),
        (lambda: attacks.vmifgsm(neighbours=0), "neighbours must be an integer of at least 1"),
        (lambda: attacks.ssa(rho=2.0), r"rho must lie in \[0, 1\]"),
        (lambda: attacks.admix(bank=None), "Admix needs a bank of images"),
        (lambda: attacks.admix(bank=bank() * 255), r"images must lie in \[0, 1\]"),
        (lambda: attacks.create("admix"), r"attack 'admix': missing a required .*argument: 'bank'"),
        (
            lambda: attacks.perturb(
                attacks.admix(bank=bank()[:, :3]), Undefended(smooth()), image()[None], [LABEL], key=KEY
            ),
            "the bank of Admix holds images of 3x5x3, the image has 6x5x3",
        ),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
