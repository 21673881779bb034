"""Victims that could make a result look right, and the answers that they must get from every attack."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from srdef import attacks, victims
from srdef.errors import InputError, SrdefWarning

SIDE, CLASSES, COUNT = 12, 4, 4
KEY = jax.random.key(0)

# A few steps of each; DI² needs a network that takes any size, and AutoAttack has its own tests.
OPTIONS = {
    "apgd": {"steps": 6},
    "apgd_t": {"steps": 6, "targets": 3},
    "carlini_wagner": {"binary_search_steps": 2, "max_iterations": 10},
    "deepfool": {},
    "fab": {"steps": 3},
    "fab_t": {"steps": 3, "targets": 3},
    "fgsm": {},
    "hop_skip_jump": {"steps": 2, "init_num_evals": 5},
    "ifgsm": {"steps": 3},
    "mifgsm": {"steps": 3},
    "pgd": {"steps": 3, "restarts": 2},
    "square": {"queries": 5},
}
GRADIENTS = [name for name in OPTIONS if name not in ("hop_skip_jump", "square")]


class Net(nnx.Module):
    """A linear classifier, and what is done to its logits."""

    def __init__(self, after=lambda z: z, classes=CLASSES, dtype=None):
        self.num_classes, self.after = classes, after
        self.out = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=nnx.Rngs(0), dtype=dtype)

    def __call__(self, x):
        return self.after(self.out(x.reshape(len(x), -1)))


def images():
    x = np.random.default_rng(0).uniform(0.2, 0.8, (COUNT, SIDE, SIDE, 3)).astype(np.float32)
    return x, np.asarray(Net()(x)).argmax(-1)


def run(attack, network, **options):
    x, y = images()
    return attacks.perturb(attack, victims.Undefended(network), x, y, key=KEY, **options)


def make(name, **options):
    return attacks.create(name, **{**OPTIONS[name], **options})


def test_every_attack_is_tried():
    assert set(attacks.list_names()) - set(OPTIONS) <= {"di2fgsm", "mdi2fgsm", "autoattack", "own"}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_gradient_that_is_nan_counts_as_zero_and_is_said(name):
    broken = Net(lambda z: z + 0 * jnp.sqrt(jnp.maximum(z - 1e9, 0)))
    with pytest.warns(SrdefWarning, match="4 of 4 images had gradients or logits that are not finite"):
        result = run(make(name), broken)
    assert result.nonfinite.all()
    assert not result.success.any()
    assert np.isfinite(result.images).all()
    assert np.isfinite(result.l2).all()


@pytest.mark.parametrize("name", OPTIONS)
def test_logits_that_are_nan_are_refused_and_name_the_image(name):
    with pytest.raises(InputError, match=r"logits of image 0 \(id 0\) are NaN before any attack"):
        run(make(name), Net(lambda z: z * jnp.nan))


@pytest.mark.parametrize("name", OPTIONS)
def test_masked_classes_never_win_and_are_no_targets(name):
    """Four classes whose logits are -inf change nothing but their number."""
    masked = Net(lambda z: jnp.concatenate([z, jnp.full_like(z, -jnp.inf)], -1), 2 * CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SrdefWarning)
        result, plain = run(make(name), masked), run(make(name), Net())
    assert np.isfinite(result.images).all()
    np.testing.assert_array_equal(result.success, plain.success)


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "mifgsm", "pgd", "apgd"])
@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_a_sure_network_of_two_classes_is_attacked_alike(name, scale):
    """Its cross-entropy is zero in float32, and so is that one's gradient."""

    def two(scale):
        return Net(lambda z: scale * z[:, :2], 2)

    x, _ = images()
    y = np.asarray(two(1)(x)).argmax(-1)
    pair = [attacks.perturb(make(name), victims.Undefended(two(s)), x, y, key=KEY) for s in (1.0, scale)]
    # The sign of a gradient: only values whose gradient is rounding may differ.
    different = np.abs(pair[0].images - pair[1].images) > 1e-5
    assert different.mean() < 0.01
    np.testing.assert_array_equal(pair[0].success, pair[1].success)


def test_a_zero_gradient_is_said():
    with pytest.warns(SrdefWarning, match="4 of 4 images had a gradient of exactly zero"):
        result = run(attacks.pgd(1e-3, steps=2), Net(lambda z: jnp.round(z * 1e4) / 1e4))
    assert result.zero_gradient.all()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Net(classes=1000), "declares 1000 classes and returns 4 logits"),
        (lambda: Net(lambda z: z[:, :1], 1), "returns 1 logit for an image; attacks need at least 2"),
        (lambda: Net(lambda z: z[..., None]), r"must return float logits \(num_classes,\)"),
        (lambda: Net(lambda z: z.astype(int)), r"must return float logits .* not int32 \(4,\)"),
    ],
)
@pytest.mark.parametrize("entry", ["perturb", "accuracy_over_draws", "autoattack"])
def test_outputs_that_are_no_logits_are_refused(network, message, entry):
    x, y = images()
    victim = victims.Undefended(network())
    calls = {
        "perturb": lambda: attacks.perturb(attacks.fgsm(), victim, x, y, key=KEY),
        "autoattack": lambda: attacks.perturb(attacks.autoattack(), victim, x, y, key=KEY),
        "accuracy_over_draws": lambda: attacks.accuracy_over_draws(victim, x, y, key=KEY),
    }
    with pytest.raises(InputError, match=message):
        calls[entry]()


def test_probabilities_are_averaged_in_log_space():
    """With gaps of hundreds between logits, all but one probability are zero in float32."""
    x, _ = images()
    single = victims.Undefended(Net(lambda z: 300 * z))
    averaged = victims.ExpectationOverTransformation(single, 4, average="probabilities")
    expected = jax.nn.log_softmax(single(x[0], KEY))
    np.testing.assert_allclose(averaged(x[0], KEY), expected, rtol=1e-5, atol=1e-3)


KINDS = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.slow), "x64"]


@pytest.mark.parametrize("direct", [False, True], ids=["perturb", "direct"])
@pytest.mark.parametrize("kind", KINDS, ids=["bfloat16", "float16", "x64"])
@pytest.mark.parametrize("name", OPTIONS)
def test_networks_of_other_types(name, kind, direct):
    x, y = images()
    with jax.enable_x64(kind == "x64"):
        network = Net(dtype=None if kind == "x64" else kind)
        if direct:
            adversarial = make(name)(victims.Undefended(network), x[0], y[0], jax.random.key(0))
        else:
            victim = victims.Undefended(network)
            adversarial = attacks.perturb(make(name), victim, x, y, key=jax.random.key(0)).images
    assert adversarial.dtype == np.float32
    assert np.isfinite(adversarial).all()


def test_a_random_victim_is_judged_by_many_draws():
    """A coin decides whether it answers right: half of the draws are fooled, which is no success."""

    class Coin(victims.Victim):
        num_classes = 2

        def __call__(self, image, key):
            heads = jax.random.bernoulli(key)
            return jnp.where(heads, jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])) + 0 * image.sum()

    jax.tree_util.register_static(Coin)
    x, _ = images()
    with pytest.warns(SrdefWarning, match="exactly zero"):
        result = attacks.perturb(attacks.fgsm(), Coin(), x, np.zeros(COUNT, int), key=KEY, draws=400)
    # Five standard deviations of the mean of 400 coins.
    np.testing.assert_allclose(result.success_rate, 0.5, atol=0.125)
    np.testing.assert_array_equal(result.success, result.success_rate > 0.5)


class Normalised(nnx.Module):
    num_classes = CLASSES

    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(SIDE * SIDE * 3, CLASSES, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.out(self.norm(x).reshape(len(x), -1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(attacks.fgsm(), Normalised()), r"in training mode \(norm.*call .eval\(\) first"),
        (lambda: attacks.fgsm([2 / 255, 4 / 255]), "epsilon must be a number or an array with one for each"),
        (lambda: run(attacks.di2fgsm(), Net()), "Net does not take images of 13x13x3"),
        (lambda: attacks.perturb(attacks.fgsm(), lambda x: x, *images(), key=KEY), "must be a victim like"),
        (
            lambda: attacks.perturb(attacks.fgsm(), victims.Undefended(Net()), *images(), key=0),
            r"key must be made with jax.random.key\(seed\), not int",
        ),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_result_has_a_short_repr():
    text = repr(run(attacks.fgsm(), Net()))
    assert text.startswith("AttackResult(4 images; 4 fooled; median")
    assert len(text) < 120
