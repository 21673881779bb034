"""What every registered attack promises, on victims with known boundaries and on a real network."""

import contextlib
import functools
import inspect

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from lowering import lower_for_accelerators
from registered import DERIVED, every

from srdef import attacks, datasets, models
from srdef.attacks import programs, starts, stepping
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8
from srdef.victims import Undefended

KEY = jax.random.key(0)
EPSILON = 0.03

# Budgets that keep the tests short and change no promise.
SHORT = {
    "alma": {"steps": 60},
    # Of the size of `linear_victims.images`.
    "admix": {"bank": linear_victims.images(3, seed=9), "mixes": 2, "copies": 2},
    "apgd": {"steps": 10},
    "apgd_t": {"steps": 10, "targets": 3},
    "carlini_wagner": {"max_iterations": 60},
    "contrast_reduction": {"steps": 20},
    "ddn": {"steps": 40},
    "ead": {"binary_search_steps": 6, "max_iterations": 40},
    "fab": {"steps": 10},
    "fab_t": {"steps": 10, "targets": 3},
    "fmn": {"steps": 40},
    "gaussian_blur": {"steps": 20},
    "gaussian_noise": {"tries": 10},
    "minimal_epsilon": {"attack": {"name": "mifgsm", "epsilon": 0.2, "steps": 4}},
    "hop_skip_jump": {"steps": 5, "init_num_evals": 30},
    "pgd": {"steps": 10, "restarts": 2},
    "repeat": {"attack": "pgd", "steps": 10, "restarts": 2, "n": 2},
    "salt_and_pepper": {"steps": 100},
    "sigma_zero": {"steps": 60},
    "simba": {"queries": 90},
    "sparse_rs": {"pixels": 10, "queries": 300},
    "spsa": {"steps": 20, "samples": 16, "learning_rate": 0.03},
    "square": {"queries": 300},
    "uniform_noise": {"tries": 10},
    "sinifgsm": {"copies": 2},
    "ssa": {"copies": 3},
    # A kernel for images of 6x5 pixels.
    "tifgsm": {"size": 3},
    "vmifgsm": {"neighbours": 3},
    "vnifgsm": {"neighbours": 3},
}


def has(name, option):
    return option in inspect.signature(attacks.REGISTRY.builder(name)).parameters


# AutoAttack is made of these, and has tests of its own.
NAMES = [name for name in attacks.list_names() if name != "autoattack"]
WITHOUT_EPSILON = [name for name in NAMES if attacks.create(name, **SHORT.get(name, {})).minimal_norm]
WITH_EPSILON = [name for name in NAMES if name not in WITHOUT_EPSILON and has(name, "epsilon")]
# These promise no success: tests/attacks/test_baselines.py has what they do promise.
BASELINES = ["uniform_noise", "gaussian_noise", "contrast_reduction", "gaussian_blur", "salt_and_pepper"]
SUCCEEDING = [name for name in NAMES if name not in BASELINES]
TARGETED = [name for name in NAMES if has(name, "targeted")]


def make(name, **options):
    if name in WITH_EPSILON:
        options.setdefault("epsilon", EPSILON)
    return attacks.create(name, **(SHORT.get(name, {}) | options))


def generous(name):
    """Options with which every attack succeeds on the linear victims."""
    if name not in WITH_EPSILON:
        return {}
    return {"epsilon": 0.2} | ({"step_size": 0.02} if has(name, "step_size") else {})


def run(attack, classifier, images, labels, **options):
    return attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY, **options)


@functools.cache
def linear(classes=5):
    """A linear classifier, and images on the 8-bit grid that it gets right, with their labels."""
    classifier = linear_victims.linear(classes)
    images = from_uint8(to_uint8(linear_victims.images(12)))
    return classifier, images, linear_victims.predictions(classifier, images)


@functools.cache
def on_linear(name):
    return run(make(name), *linear())


@pytest.mark.parametrize("name", every(NAMES))
def test_the_loop_of_a_gpu_takes_the_same_steps(name, monkeypatch):
    """Many steps in one call, and smaller batches only where many steps are left."""
    plain = on_linear(name)  # which others of these tests are given, too
    monkeypatch.setattr(stepping, "_platform", lambda sharding: "gpu")
    other = run(make(name), *linear())
    # Two programs of the same arithmetic, and one of the twelve images may lie on an edge.
    same = (other.steps == plain.steps) & (other.success == plain.success)
    assert (~same).sum() <= 1
    # The sign of a gradient of rounding size may flip.
    assert (np.abs(other.images - plain.images)[same] > 1e-5).mean() < 0.01


@pytest.mark.parametrize("name", every(NAMES))
def test_range_type_and_budget(name):
    _, images, _ = linear()
    result = on_linear(name)
    assert result.images.dtype == result.linf.dtype == result.l2.dtype == np.float32
    assert result.success.dtype == bool
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    if name in WITH_EPSILON:
        assert result.linf.max() <= EPSILON + 1e-6
        assert result.linf.min() > 0.5 * EPSILON  # and the budget is used
    # Black and white images are where an attack would leave the range.
    classifier = linear()[0]
    images = images.round()
    result = run(make(name), classifier, images, linear_victims.predictions(classifier, images))
    assert result.images.min() >= 0
    assert result.images.max() <= 1


def in_every_norm(name, **options):
    """The attack in each norm that it takes."""
    if not has(name, "norm"):
        return [make(name, **options)]
    made = []
    for norm in ("linf", "l2", "l1", "l0"):
        with contextlib.suppress(InputError):
            made.append(make(name, norm=norm, **options))
    assert made
    return made


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "repeat"])
def test_images_of_any_number_of_channels(name, channels):
    """Traced only: shapes need no values."""
    victim, image = Undefended(linear_victims.linear(5)), jnp.full((6, 5, channels), 0.5)
    options = {"bank": np.full((2, *image.shape), 0.5, np.float32)} if has(name, "bank") else {}
    for attack in in_every_norm(name, **options):
        found = jax.eval_shape(attack, victim, image, jnp.int32(0), KEY)
        assert found.shape == image.shape
        assert found.dtype == image.dtype


@pytest.mark.parametrize("name", every(WITH_EPSILON))
def test_one_epsilon_per_image_and_a_sweep_compiles_once(name):
    """Three images, so that no smaller batch is compiled when some of them are done."""
    classifier, images, labels = (part if i == 0 else part[:3] for i, part in enumerate(linear()))
    radii = np.array([0.0, 0.01, 0.05], np.float32)
    mixed = run(make(name, epsilon=radii), classifier, images, labels)
    assert (mixed.linf <= radii + 1e-6).all()
    before = programs.steps._jitted._cache_size()
    for row, epsilon in enumerate(radii):
        same = run(make(name, epsilon=float(epsilon)), classifier, images, labels)
        np.testing.assert_array_equal(same.images[row], mixed.images[row])
    for epsilon in np.linspace(0.02, 0.09, 5):
        run(make(name, epsilon=epsilon), classifier, images, labels)
    assert programs.steps._jitted._cache_size() == before


# The checkpoints of APGD are worked out in Python.
WITHOUT_COUNTS = ("apgd", "apgd_t", "repeat")


@pytest.mark.parametrize("name", every([name for name in NAMES if name not in WITHOUT_COUNTS]))
def test_another_number_of_steps_compiles_nothing(name):
    """And it is the number of steps that the attack takes, as called on one image."""
    classifier, images, labels = (part if i == 0 else part[:3] for i, part in enumerate(linear()))
    counts = ("steps", "queries", "tries", "binary_search_steps", "max_iterations")

    def more(attack):
        found = {count: getattr(attack, count) + 1 for count in counts if hasattr(attack, count)}
        return attack.replace(**found) if found else attack.replace(attack=more(attack.attack))

    attack = make(name)
    run(attack, classifier, images, labels)
    before = programs.steps._jitted._cache_size(), programs.init._jitted._cache_size()
    result = run(more(attack), classifier, images, labels)
    assert (programs.steps._jitted._cache_size(), programs.init._jitted._cache_size()) == before
    alone = jax.jit(lambda *arguments: arguments[0](*arguments[1:]))(
        more(attack), Undefended(classifier), images[1], labels[1], jax.random.fold_in(KEY, 1)
    )
    # Another program of the same arithmetic: signs of tiny gradients flip, and a query at the boundary.
    assert np.abs(alone - result.images[1]).mean() < 1e-3
    if not attack.stops_early:
        assert (result.steps == more(attack).max_steps).all()


STOPPING = [name for name in NAMES if has(name, "stop_early")]


@pytest.mark.parametrize("name", every(STOPPING))
def test_an_attack_that_does_not_stop_early_takes_every_step(name):
    """As random victims need it: the clean image, misread in one draw, does not come back."""
    classifier, images, labels = linear()
    wrong = (labels + 1) % 5
    attack = make(name, stop_early=False)
    result = run(attack, classifier, images, wrong)
    assert (result.steps == attack.max_steps).all()
    assert result.linf.min() > 0
    assert attacks.without_early_stop(make(name)) == attack


@pytest.mark.parametrize("name", every(NAMES))
def test_stored_in_8_bits(name):
    classifier, images, labels = linear()
    plain = on_linear(name)
    stored = run(make(name), classifier, images, labels, storage="uint8")
    np.testing.assert_array_equal(from_uint8(to_uint8(stored.images)), stored.images)
    np.testing.assert_array_equal(
        stored.success, linear_victims.predictions(classifier, stored.images) != labels
    )
    again = attacks.round_result(
        make(name), Undefended(classifier), images, plain.images, labels, key=KEY, batch_size=12
    )
    assert (again.steps == 0).all()
    jax.tree.map(np.testing.assert_array_equal, again.replace(steps=stored.steps), stored)
    if name in WITH_EPSILON:
        assert stored.linf.max() <= EPSILON + 1e-6
    else:
        # Rounding alone would undo these attacks; scaled up they survive, and cost little more.
        np.testing.assert_array_equal(stored.success, plain.success)
        assert stored.success.all() or name in BASELINES


@pytest.mark.parametrize("name", every(WITH_EPSILON))
def test_epsilon_zero_returns_the_image_bit_for_bit(name):
    classifier, images, labels = linear()
    result = run(make(name, epsilon=0.0), classifier, images, labels)
    assert result.images.tobytes() == images.tobytes()
    assert (result.linf == 0).all()
    assert not result.success.any()


@pytest.mark.parametrize("name", every(NAMES))
def test_alone_in_a_batch_and_in_another_order(name):
    classifier, images, labels = linear()
    whole = on_linear(name)
    order = np.random.default_rng(1).permutation(12)
    shuffled = run(make(name), classifier, images[order], labels[order], ids=order)
    np.testing.assert_array_equal(shuffled.images, whole.images[order])
    alone = run(make(name), classifier, images[5:6], labels[5:6], ids=np.array([5]))
    # A matrix product of one row may be summed in another order than one of twelve.
    np.testing.assert_allclose(alone.images[0], whole.images[5], atol=1e-5)
    assert alone.success[0] == whole.success[5]


@pytest.mark.parametrize("name", every([name for name in NAMES if name != "repeat"]))
def test_perturb_is_the_attack_itself(name):
    """The loop on the host gives what the attack gives as a function of one image."""
    classifier, images, labels = linear()
    alone = jax.jit(lambda *arguments: arguments[0](*arguments[1:]))(
        make(name), Undefended(classifier), images[1], labels[1], jax.random.fold_in(KEY, 1)
    )
    beside = run(make(name), classifier, images[1:2], labels[1:2], ids=np.array([1])).images[0]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def one_of_each_class(names):
    """For each class of attacks one of the names: what it says of itself is tested once."""
    found = {}
    for name in sorted(names, key=DERIVED.__contains__):
        found.setdefault(type(make(name)), name)
    return list(found.values())


@pytest.mark.parametrize("name", one_of_each_class([name for name in NAMES if name != "repeat"]))
def test_a_trace_changes_nothing(name):
    classifier, images, labels = linear()
    plain = on_linear(name)
    traced = run(make(name), classifier, images, labels, trace=True)
    trace = traced.trace
    jax.tree.map(np.testing.assert_array_equal, traced.replace(trace=None), plain)
    rows = plain.steps.max() + 1
    assert trace.loss.shape == trace.margin.shape == trace.success.shape == (rows, len(images))
    assert np.isfinite(trace.loss).all()
    untied = trace.margin != 0
    np.testing.assert_array_equal(trace.success[untied], trace.margin[untied] > 0)
    # What is finished stays as it was.
    for column, steps in enumerate(plain.steps):
        assert len(np.unique(trace.margin[steps:, column])) == 1
    # The last row is the result.
    result = run(attacks.fgsm(0.0), classifier, plain.images, labels, trace=True).trace
    np.testing.assert_allclose(trace.margin[-1], result.margin[0], atol=1e-4)
    np.testing.assert_array_equal(trace.success[-1], plain.success)
    if name not in STARTS_AT_RANDOM:
        logits = np.asarray(classifier(jnp.asarray(images)))
        chosen = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
        others = np.where(np.arange(5) == labels[:, None], -np.inf, logits).max(axis=1)
        np.testing.assert_allclose(trace.margin[0], others - chosen, atol=1e-4)


# Where `start` is not the image when none is given.
STARTS_AT_RANDOM = ("pgd", "apgd", "apgd_t", "hop_skip_jump", "square", "sparse_rs")


@pytest.mark.parametrize("name", one_of_each_class(starts.names()))
def test_a_start_of_ones_own(name):
    classifier, images, labels = linear()
    assert starts.takes_start(make(name))
    if name not in STARTS_AT_RANDOM:
        at_image = run(make(name), classifier, images, labels, start=images)
        jax.tree.map(np.testing.assert_array_equal, at_image, on_linear(name))
    start = np.random.default_rng(1).uniform(size=images.shape).astype(np.float32)
    result = run(make(name), classifier, images, labels, start=start, trace=True)
    assert 0 <= result.images.min() <= result.images.max() <= 1
    if name in WITH_EPSILON:
        assert result.linf.max() <= EPSILON + 1e-6
    # It starts there and not at the image: brought into the ball first, if there is one.
    inside = np.clip(start, images - EPSILON, images + EPSILON) if name in WITH_EPSILON else start
    if name != "hop_skip_jump":  # whose first point is at the boundary
        margin = run(attacks.fgsm(0.0), classifier, inside, labels, trace=True).trace.margin[0]
        np.testing.assert_allclose(result.trace.margin[0], margin, atol=1e-4)
    assert not np.array_equal(result.images, on_linear(name).images)
    # Misclassified images stay as they are, where the attack leaves them so.
    if name in WITHOUT_EPSILON:
        wrong = run(make(name), classifier, images, (labels + 1) % 5, start=start)
        np.testing.assert_array_equal(wrong.images, images)


def test_a_start_at_the_image_is_no_random_start():
    classifier, images, labels = linear()
    at_image = run(make("pgd"), classifier, images, labels, start=images)
    plain = run(make("pgd", random_start=False), classifier, images, labels)
    jax.tree.map(np.testing.assert_array_equal, at_image, plain)


def test_attacks_without_an_initial_point():
    assert set(NAMES) - set(starts.names()) == {*BASELINES, "minimal_epsilon", "repeat", "sparse_rs"}


@pytest.mark.parametrize(
    ("name", "targeted"), [(name, False) for name in NAMES] + [(name, True) for name in TARGETED]
)
def test_a_zero_gradient_gives_no_nan(name, targeted):
    classifier = linear_victims.Constant([1.0, 2.0, 0.0, -1.0])
    images = linear_victims.images(3)
    options = {"targeted": True} if targeted else {}
    result = run(make(name, **options), classifier, images, np.array([1, 0, 2]), storage="uint8")
    assert np.isfinite(result.images).all()
    np.testing.assert_array_equal(result.success, np.array([0, 1, 1]) != targeted)


@pytest.mark.parametrize("name", every(WITHOUT_EPSILON))
def test_minimal_attacks_leave_misclassified_images_alone(name):
    classifier, images, labels = linear()
    wrong = labels.copy()
    wrong[::2] = (wrong[::2] + 1) % 5
    result = run(make(name), classifier, images, wrong)
    np.testing.assert_array_equal(result.images[::2], images[::2])
    assert (result.l2[::2] == 0).all()
    assert result.success[::2].all()
    assert result.success.all() or name in BASELINES
    # The others are attacked as if these were not there.
    np.testing.assert_allclose(result.images[1::2], on_linear(name).images[1::2], atol=1e-6)


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("name", every(SUCCEEDING))
def test_two_classes_a_thousand_and_the_last_one(name, classes):
    classifier, images, labels = linear(classes)
    assert run(make(name, **generous(name)), classifier, images, labels).success.all()
    # With another bias the last class becomes the prediction everywhere.
    logits = classifier(jnp.asarray(images))
    bias = classifier.bias[...].at[-1].add((logits.max(axis=1) - logits[:, -1]).max() + 0.1)
    classifier = linear_victims.Linear(np.asarray(classifier.weights[...]), np.asarray(bias))
    labels = linear_victims.predictions(classifier, images)
    assert (labels == classes - 1).all()
    assert run(make(name, **generous(name)), classifier, images, labels).success.all()


@pytest.mark.parametrize("name", every([name for name in TARGETED if name in SUCCEEDING]))
def test_targeted_reaches_the_target(name):
    classifier, images, labels = linear()
    targets = (labels + 1) % 5
    result = run(make(name, targeted=True, **generous(name)), classifier, images, targets)
    np.testing.assert_array_equal(
        result.success, linear_victims.predictions(classifier, result.images) == targets
    )
    assert result.success.all()


@pytest.mark.parametrize("name", every([name for name in WITH_EPSILON if name in SUCCEEDING]))
def test_doubling_epsilon_does_not_lower_success(name):
    classifier, images, labels = linear()
    rates = [
        run(make(name, epsilon=epsilon), classifier, images, labels).success.mean()
        for epsilon in (0.001, 0.002, 0.004, 0.008, 0.016)
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


# Fewest steps of the sequence n, 2n, 4n, 8n; C&W needs some for Adam to start.
FEWEST_STEPS = {"carlini_wagner": 15, "ead": 5}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("ifgsm", "apgd", "deepfool") else pytest.mark.slow)
        for name in SUCCEEDING
        if has(name, "steps") or has(name, "max_iterations")
    ],
)
def test_doubling_the_steps_does_not_lower_success(name):
    classifier, images, labels = linear()
    # Steps and budget so short that the first rates are low.
    options = {"epsilon": 0.015} if name in WITH_EPSILON else {}
    options |= {"step_size": 0.002} if name in WITH_EPSILON and has(name, "step_size") else {}
    fewest = FEWEST_STEPS.get(name, 1)
    steps = "steps" if has(name, "steps") else "max_iterations"
    rates = [
        run(make(name, **(options | {steps: n * fewest})), classifier, images, labels).success.mean()
        for n in (1, 2, 4, 8)
    ]
    assert rates == sorted(rates)
    assert rates[-1] > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "repeat"])
def test_lowers_for_accelerators(name):
    """One image with `vmap` and gradient: `repeat` only calls the others."""
    victim = Undefended(linear_victims.linear(5))
    attack, image = make(name), linear_victims.images(1)[0]

    def one(image, label, key):
        state = attack.init(victim, image, label, key)
        return attack.result(attack.step(victim, state))

    def batch(images, labels, key):
        return jax.vmap(one, (0, 0, None))(images, labels, key)

    exported = lower_for_accelerators(batch, np.stack([image, image]), np.array([0, 1]), KEY)
    assert exported.out_avals[0].shape == (2, *image.shape)


@functools.cache
def efficientnet(count=4, size=64):
    """EfficientNet-Lite0 and photographs that it gets right, small to be quick."""
    classifier = models.create("efficientnet_lite0", pretrained=True)
    photographs = datasets.load("imagenet_samples", size=size)
    images = from_uint8(to_uint8(photographs.images))
    predictions = np.asarray(jax.jit(lambda c, x: c(x).argmax(axis=-1))(classifier, images))
    right = np.flatnonzero(predictions == photographs.labels)[:count]
    assert len(right) == count
    return classifier, images[right], photographs.labels[right]


REAL = {"epsilon": 8 / 255}
# What differs from `SHORT`: of 64x64 pixels ten are too few, and what takes long needs less.
REAL_SHORT = {
    "carlini_wagner": {"binary_search_steps": 3, "max_iterations": 30},
    "ead": {"binary_search_steps": 3, "max_iterations": 40},
    "simba": {"queries": 500},
    "sparse_rs": {"pixels": 200},
}


# One of each kind of loop; most of the time goes to compiling the network once more for every attack.
KINDS = (
    *("ifgsm", "di2fgsm", "apgd_t", "deepfool", "carlini_wagner", "fab_t"),
    *("square", "sparse_rs", "hop_skip_jump"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in KINDS else pytest.mark.full)
        for name in SUCCEEDING
        if name not in (*DERIVED, "repeat")
    ],
)
def test_on_a_real_network(name):
    """All but those that change or call another one, as `fab`, which takes a gradient for every class."""
    classifier, images, labels = efficientnet()
    options = (REAL if name in WITH_EPSILON else {}) | ({"bank": images} if has(name, "bank") else {})
    options |= REAL_SHORT.get(name, {})
    attack = make(name, **options)
    whole = run(attack, classifier, images, labels, storage="uint8")
    assert whole.success.sum() >= 3
    np.testing.assert_array_equal(from_uint8(to_uint8(whole.images)), whole.images)
    if name in WITH_EPSILON:
        assert whole.linf.max() <= REAL["epsilon"] + 1e-6
        nothing = run(attack.replace(epsilon=0.0), classifier, images, labels, storage="uint8")
        assert nothing.images.tobytes() == images.tobytes()
    order = np.array([2, 0, 3, 1])
    shuffled = run(attack, classifier, images[order], labels[order], ids=order, storage="uint8")
    np.testing.assert_array_equal(shuffled.images, whole.images[order])
    # Alone, in a batch filled up with itself: what its neighbours are changes nothing, to the bit.
    only = {"ids": np.array([1]), "storage": "uint8"}
    alone = run(attack, classifier, images[1:2], labels[1:2], batch_size=4, **only)
    np.testing.assert_array_equal(alone.images[0], whole.images[1])
    if name not in ("ifgsm", "deepfool", "square"):  # each takes programs for another size
        return
    # In a batch of one, convolutions are summed in another order, and a sign may turn. An attack within
    # ε still goes as far; the path of a search for the nearest image may end elsewhere: over two kinds of
    # processors, C&W was 6 % off, HopSkipJump 8 %.
    single = run(attack, classifier, images[1:2], labels[1:2], **only)
    assert single.success[0] == whole.success[1]
    rtol = 0.05 if name in WITH_EPSILON else 0.25
    np.testing.assert_allclose(single.l2[0], whole.l2[1], rtol=rtol)
