"""Victims that could make a result look right, and the answers that they must get from every attack."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from registered import DERIVED, every

from srdef import attacks, evaluate_robustness, victims
from srdef.errors import InputError, SrdefWarning

SIDE, CLASSES, COUNT = 12, 4, 4
KEY = jax.random.key(0)

# A few steps of each; DI² needs a network that takes any size, and AutoAttack has its own tests.
OPTIONS = {
    "alma": {"steps": 10},
    "contrast_reduction": {"steps": 4},
    "ddn": {"steps": 10},
    "ead": {"binary_search_steps": 6, "max_iterations": 10},
    "fmn": {"steps": 10},
    "gaussian_blur": {"steps": 4},
    "gaussian_noise": {"tries": 4},
    "salt_and_pepper": {"steps": 4},
    "sigma_zero": {"steps": 10},
    "sparse_rs": {"pixels": 3, "queries": 5},
    "uniform_noise": {"tries": 4},
    "admix": {"steps": 2, "mixes": 2, "copies": 2, "bank": np.full((1, SIDE, SIDE, 3), 0.5, np.float32)},
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
    "minimal_epsilon": {"attack": {"name": "ifgsm", "steps": 3}, "tolerance": 0.005},
    "nifgsm": {"steps": 3},
    "pgd": {"steps": 3, "restarts": 2},
    "sinifgsm": {"steps": 2, "copies": 2},
    "simba": {"queries": 5},
    "spsa": {"steps": 3, "samples": 4},
    "square": {"queries": 5},
    "ssa": {"steps": 2, "copies": 2},
    "tifgsm": {"steps": 3, "size": 3},
    "vmifgsm": {"steps": 2, "neighbours": 2},
    "vnifgsm": {"steps": 2, "neighbours": 2},
}
BLACK_BOX = ("hop_skip_jump", "simba", "sparse_rs", "spsa", "square")
BASELINES = ("contrast_reduction", "gaussian_blur", "gaussian_noise", "salt_and_pepper", "uniform_noise")
GRADIENTS = [name for name in OPTIONS if name not in BLACK_BOX + BASELINES]


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
    assert set(attacks.list_names()) - set(OPTIONS) <= {
        "di2fgsm",
        "mdi2fgsm",
        "autoattack",
        "repeat",
        "own",
    }


@pytest.mark.parametrize("name", every(GRADIENTS))
def test_a_gradient_that_is_nan_counts_as_zero_and_is_said(name):
    broken = Net(lambda z: z + 0 * jnp.sqrt(jnp.maximum(z - 1e9, 0)))
    with pytest.warns(SrdefWarning, match="4 of 4 images had gradients or logits that are not finite"):
        result = run(make(name), broken)
    assert result.nonfinite.all()
    assert not result.success.any()
    assert np.isfinite(result.images).all()
    assert np.isfinite(result.l2).all()


@struct.dataclass
class Lapsing(victims.Victim):
    """A classifier whose logits are NaN, with a gradient of zero, for a share of the keys.

    Not at the given images, which would be refused.
    """

    classifier: Net
    given: jax.Array
    share: float
    num_classes = CLASSES

    def __call__(self, image, key):
        logits = self.classifier(image[None])[0]
        given = (jnp.abs(self.given - image[None]).max(axis=(1, 2, 3)) < 1e-6).any()
        return jnp.where(~given & jax.random.bernoulli(key, self.share), jnp.nan, logits)


@pytest.mark.parametrize("name", every(GRADIENTS))
def test_logits_that_are_nan_on_the_way_are_said(name):
    """Also where their gradient is zero, and where the result is the image itself."""
    x, y = images()
    with pytest.warns(SrdefWarning, match="4 of 4 images had gradients or logits that are not finite"):
        result = attacks.perturb(make(name), Lapsing(Net(), jnp.asarray(x), 1.0), x, y, key=KEY)
    assert result.nonfinite.all()
    assert not result.zero_gradient.any()
    assert not result.success.any()
    assert np.isfinite(result.images).all()


# With steps enough to find something.
LAPSES = {
    **{name: {"steps": 60} for name in ("alma", "ddn", "fmn", "sigma_zero")},
    "apgd": {"epsilon": 0.05},
    "carlini_wagner": {"binary_search_steps": 3, "initial_const": 1.0, "learning_rate": 0.05},
    "deepfool": {},
    "ead": {},
    "fab_t": {},
    "sinifgsm": {"epsilon": 0.05},
}


@pytest.mark.parametrize("name", LAPSES)
def test_single_logits_that_are_nan_do_not_end_the_search(name):
    """Of several images a few may be lost; of the others the results are not much further away."""
    network = Net()
    x = np.random.default_rng(0).uniform(0.2, 0.8, (12, SIDE, SIDE, 3)).astype(np.float32)
    y = np.asarray(network(x)).argmax(-1)
    attack = make(name, **LAPSES[name])
    plain = attacks.perturb(attack, victims.Undefended(network), x, y, key=KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SrdefWarning)
        result = attacks.perturb(attack, Lapsing(network, jnp.asarray(x), 0.25), x, y, key=KEY)
    fooled = np.asarray(network(result.images)).argmax(-1) != y
    assert plain.success.mean() > 0.9
    assert fooled.mean() > 0.7
    assert result.nonfinite.any()
    if attack.minimal_norm:
        found, others = (getattr(r, attack.norm)[fooled] for r in (result, plain))
        assert np.median(found / others) < 1.5


@pytest.mark.parametrize("through", ["perturb", "evaluate_robustness", "repeat", "autoattack"])
def test_a_warning_names_the_line_of_the_caller(through):
    """And none of srdef's own, however deep the attack was called."""
    x, y = images()
    constant = Net(lambda z: z * 0 + jnp.arange(CLASSES)[None])
    y = np.full_like(y, CLASSES - 1)
    attack = attacks.ifgsm(0.1, steps=2)
    if through == "autoattack":
        attack = attacks.autoattack(0.1, attacks={"ifgsm": attack})
    elif through == "repeat":
        attack = attack.repeat(2)
    call = {"evaluate_robustness": lambda: evaluate_robustness(constant, x, y, [attack], (0.1,), key=KEY)}
    plain = lambda: attacks.perturb(attack, victims.Undefended(constant), x, y, key=KEY)  # noqa: E731
    with pytest.warns(SrdefWarning, match="gradient") as found:
        call.get(through, plain)()
    assert {warning.filename for warning in found} == {__file__}


@pytest.mark.parametrize("name", every(OPTIONS))
def test_logits_that_are_nan_are_refused_and_name_the_image(name):
    with pytest.raises(InputError, match=r"logits of image 0 \(id 0\) are NaN before any attack"):
        run(make(name), Net(lambda z: z * jnp.nan))


@pytest.mark.parametrize("name", every(OPTIONS))
def test_masked_classes_never_win_and_are_no_targets(name):
    """Four classes whose logits are -inf change nothing but their number."""
    masked = Net(lambda z: jnp.concatenate([z, jnp.full_like(z, -jnp.inf)], -1), 2 * CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SrdefWarning)
        result, plain = run(make(name), masked), run(make(name), Net())
    assert np.isfinite(result.images).all()
    np.testing.assert_array_equal(result.success, plain.success)


class Sure(nnx.Module):
    """Logits of any size; the weights, and so the scale, are arguments of one program."""

    def __init__(self, scale, classes):
        self.num_classes = classes
        self.scale = nnx.Variable(jnp.float32(scale))
        self.out = nnx.Linear(SIDE * SIDE * 3, classes, rngs=nnx.Rngs(0))

    def __call__(self, x):
        z = self.out(x.reshape(len(x), -1))
        return self.scale[...] * (z + jnp.sin(3 * z[:, ::-1]))


def attack_sure(attack, classes, epsilon=0.01, scales=(1, 1e3, 1e6)):
    x = np.random.default_rng(1).uniform(0.2, 0.8, (16, SIDE, SIDE, 3)).astype(np.float32)
    y = np.asarray(Sure(1, classes)(x)).argmax(-1)
    if not attack.minimal_norm:  # such that a part of the images is fooled
        attack = attack.replace(epsilon=epsilon)
    return [
        attacks.perturb(attack, victims.Undefended(Sure(scale, classes)), x, y, key=KEY) for scale in scales
    ]


@pytest.mark.parametrize("name", ["fgsm", "ifgsm", "mifgsm", "pgd", "apgd"])
def test_a_sure_network_of_two_classes_is_attacked_alike(name):
    """Its cross-entropy is zero in float32, and so is that one's gradient."""
    plain, *others = attack_sure(make(name), 2, epsilon=0.05)
    assert plain.success.any()
    for sure in others:
        # The sign of a gradient: only values whose gradient is rounding may differ.
        assert (np.abs(plain.images - sure.images) > 1e-5).mean() < 0.01
        np.testing.assert_array_equal(plain.success, sure.success)


# Attacks on the mean loss of several copies of the image: of a sure network only the worst copy counts.
AVERAGING = ("admix", "sinifgsm", "ssa", "vmifgsm", "vnifgsm")


@pytest.mark.parametrize("name", every(name for name in GRADIENTS if name not in AVERAGING))
def test_a_sure_network_of_more_classes_is_no_more_robust(name):
    """There the scale moves the weights of the other classes: one image of sixteen may be lost by it."""
    plain, *others = attack_sure(make(name), CLASSES)
    assert plain.success.any()
    for sure in others:
        assert sure.success.sum() >= plain.success.sum() - 1
        if name in ("deepfool", "fab", "fab_t"):  # C&W's constant weighs logits against distances
            assert np.median(sure.l2[sure.success]) <= 1.05 * np.median(plain.l2[plain.success])


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


# What else can go wrong with a type shows in one of the two forms.
TYPES = [(jnp.bfloat16, False), ("x64", True)]
MORE_TYPES = [(jnp.float16, True), ("x64", False)]
CASES_OF_TYPES = [
    *(
        pytest.param(name, *both, marks=pytest.mark.slow if name in DERIVED else ())
        for name in OPTIONS
        for both in TYPES
    ),
    *(
        pytest.param(name, *both, marks=[pytest.mark.slow, pytest.mark.full])
        for name in OPTIONS
        if name not in DERIVED
        for both in MORE_TYPES
    ),
]


@pytest.mark.parametrize(("name", "kind", "direct"), CASES_OF_TYPES)
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


class Opaque:
    """A callable object that JAX knows nothing of."""

    num_classes = CLASSES

    def __call__(self, image, key=None):
        return image.reshape(len(image), -1)[:, :CLASSES]


@jax.tree_util.register_static
class Half(victims.Victim):
    """A victim of one's own whose logits are bfloat16."""

    num_classes = CLASSES

    def __call__(self, image, key):
        return image.ravel()[:CLASSES].astype(jnp.bfloat16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(attacks.fgsm(), Normalised()), r"in training mode \(norm.*call .eval\(\) first"),
        (lambda: attacks.fgsm([2 / 255, 4 / 255]), "epsilon must be a number or an array with one for each"),
        (lambda: run(attacks.di2fgsm(), Net()), "Net does not take images of 13x13x3.*same_size=True"),
        (lambda: attacks.perturb(attacks.fgsm(), lambda x: x, *images(), key=KEY), "must be a victim like"),
        (lambda: attacks.perturb(attacks.fgsm(), Opaque(), *images(), key=KEY), "Opaque is no pytree"),
        (
            lambda: attacks.perturb(attacks.fgsm(), Half(), *images(), key=KEY),
            "logits of bfloat16",
        ),
        (
            lambda: attacks.perturb(attacks.fgsm(), victims.Undefended(Net()), *images(), key=0),
            r"key must be made with jax.random.key\(seed\), not int",
        ),
        (
            lambda: attacks.round_result(
                attacks.fgsm(),
                victims.Undefended(Net()),
                images()[0],
                images()[0][:, :4],
                images()[1],
                key=KEY,
            ),
            r"adversarial must have the shape of the images, \(4, 12, 12, 3\), not \(4, 4, 12, 3\)",
        ),
        (
            lambda: attacks.fgsm()(victims.Undefended(Net()), images()[0][0], 0, 0),
            r"key must be made with jax.random.key\(seed\), not int",
        ),
    ],
)
def test_mistakes_are_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_any_callable_is_a_classifier():
    assert run(attacks.fgsm(), Opaque()).success.shape == (COUNT,)


@jax.tree_util.register_static
class Undeclared(victims.Victim):
    """A victim that does not say how many classes it has."""

    def __call__(self, image, key):
        return image.ravel()[:CLASSES]


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: victims.Ensemble((v, v)), victims.DiverseInputs])
def test_a_victim_need_not_declare_its_classes(wrap):
    x, _ = images()
    victim = wrap(Undeclared())
    y = x.reshape(COUNT, -1)[:, :CLASSES].argmax(-1)
    assert attacks.perturb(attacks.fgsm(0.5), victim, x, y, key=KEY).success.shape == (COUNT,)
    assert getattr(victim, "num_classes", None) is None


def test_rounding_warns_of_logits_that_are_nan():
    x, y = images()
    victim = victims.Undefended(Net(lambda z: jnp.where(z > 1e9, jnp.nan, z)))
    broken = victims.Undefended(Net(lambda z: z * jnp.nan))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SrdefWarning)
        attacks.round_result(attacks.fgsm(), victim, x, x, y, key=KEY)
    with pytest.warns(SrdefWarning, match="4 of 4 images had gradients or logits that are not finite"):
        result = attacks.round_result(attacks.fgsm(), broken, x, x, y, key=KEY)
    assert not result.success.any()


def test_the_result_has_a_short_repr():
    text = repr(run(attacks.fgsm(), Net()))
    assert text.startswith("AttackResult(4 images; 4 fooled; median")
    assert len(text) < 120


DRAWS = (
    "uniform",
    "normal",
    "randint",
    "bernoulli",
    "rademacher",
    "choice",
    "permutation",
    "laplace",
    "gamma",
)


@pytest.mark.parametrize("name", every(OPTIONS))
def test_what_an_attack_draws_is_independent_of_what_the_victim_draws(name, monkeypatch):
    """A start drawn with the key that judges it knows what the victim will do."""
    asked, drawn = set(), set()

    def bits(key):
        return () if isinstance(key, jax.core.Tracer) else tuple(np.ravel(jax.random.key_data(key)).tolist())

    @jax.tree_util.register_static
    class Recorder(victims.Victim):
        num_classes = CLASSES

        def __call__(self, image, key):
            asked.add(bits(key))
            return image.ravel()[:CLASSES] - image.ravel()[CLASSES:].mean()

    for function in DRAWS:
        draw = getattr(jax.random, function)
        monkeypatch.setattr(
            jax.random,
            function,
            lambda key, *a, draw=draw, **k: (drawn.add(bits(key)), draw(key, *a, **k))[1],
        )
    x, _ = images()
    x = x[0, :4, :4]
    label = int(x.ravel()[:CLASSES].argmax())
    with jax.disable_jit():
        attack = make(name, **({"bank": x[None]} if name == "admix" else {}))
        if hasattr(attack, "restarts"):
            attack = attack.replace(restarts=2)
        attack(Recorder(), x, label, KEY)
    asked.discard(())
    assert asked
    assert not asked & drawn


def test_apgd_keeps_what_fooled_on_the_way():
    """With many other classes the loss may be higher where none of them wins."""

    @jax.tree_util.register_static
    class Ridge(victims.Victim):
        """A narrow place where class 1 wins, and beyond it nine classes that nearly do."""

        num_classes = 10

        def __call__(self, image, key):
            place = image.mean()
            near = jnp.interp(place, jnp.array([0.48, 0.52, 0.55]), jnp.array([0.2, 0.1, -0.1]))
            far = jnp.interp(place, jnp.array([0.48, 0.55]), jnp.array([-3.0, -0.1]))
            return jnp.stack([0 * place, near, *[far] * 8])

    x = np.full((2, SIDE, SIDE, 3), 0.5, np.float32)
    result = attacks.perturb(
        attacks.apgd(0.1, steps=10, stop_early=False), Ridge(), x, np.zeros(2, int), key=KEY
    )
    assert result.success.all()
