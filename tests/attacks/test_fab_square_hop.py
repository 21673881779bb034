"""FAB, Square and HopSkipJump on victims whose nearest adversarial points are known."""

import functools

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import torch
import torchattacks
from flax import nnx, struct

from srdef import attacks
from srdef.attacks.queries import QueryState, passed
from srdef.attacks.square import _humps
from srdef.errors import InputError
from srdef.victims import ExpectationOverTransformation, Undefended

KEY = jax.random.key(0)
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


@functools.cache
def linear(classes=5, count=4):
    classifier = linear_victims.linear(classes)
    images = linear_victims.images(count)
    return classifier, images, linear_victims.predictions(classifier, images)


def exact_distances(norm, classes=5):
    """min over classes of |lead| / dual norm; these images are too far from 0 and 1 for the box to matter."""
    classifier, images, labels = linear(classes)
    weights = np.asarray(classifier.weights[...], np.float64)
    logits = images.reshape(len(images), -1) @ weights + np.asarray(classifier.bias[...])
    distances = []
    for row, label in zip(logits, labels, strict=True):
        others = [k for k in range(classes) if k != label]
        normals = [np.linalg.norm(weights[:, k] - weights[:, label], DUAL[norm]) for k in others]
        distances.append(min((row[label] - row[k]) / n for k, n in zip(others, normals, strict=True)))
    return np.array(distances)


def length(change, norm):
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(change.reshape(len(change), -1).astype(np.float64), order, axis=1)


@pytest.mark.parametrize(
    ("name", "norm"), [("fab_t", "linf"), ("fab_t", "l2"), ("fab_t", "l1"), ("fab", "l2")]
)
def test_fab_finds_the_nearest_point_of_a_linear_victim(name, norm):
    classifier, images, labels = linear()
    attack = attacks.create(name, norm=norm, steps=30)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert result.success.all()
    ratio = length(result.images - images, norm) / exact_distances(norm)
    assert ratio.min() >= 1 - 1e-4
    # It oversteps by 5 % and comes back by a tenth of that at a time; 2 % in L1, where a single
    # value may reach the end of [0, 1] for images far from their boundary.
    assert ratio.max() <= (1.02 if norm == "l1" else 1.01)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.3), ("l2", 1.0), ("l1", 5.0)])
def test_fab_restarts_at_the_distance_of_the_reference(norm, radius):
    """Half of it, from a grey image that no start of this length leaves [0, 1] from."""
    classifier = linear_victims.linear(5)
    image = jnp.full(linear_victims.SHAPE, 0.5)
    for options, expected in (({}, radius / 2), ({"start_radius": 0.1}, 0.05)):
        attack = attacks.fab(norm=norm, restarts=2, **options)
        state = attack.init(Undefended(classifier), image, jnp.argmax(classifier(image[None])[0]), KEY)
        np.testing.assert_array_equal(attack._start(state, jnp.int32(0), KEY), image)
        start = attack._start(state, jnp.int32(1), KEY)
        assert length(np.asarray(start - image)[None], norm)[0] == pytest.approx(expected, rel=1e-4)


@struct.dataclass
class Masked:
    """The classifier with two more classes, whose logits say that they never win."""

    classifier: linear_victims.Linear

    num_classes = 7

    def __call__(self, image, key):
        return jnp.append(self.classifier(image[None])[0], jnp.full(2, -jnp.inf))


@pytest.mark.parametrize("name", ["fab_t", "square", "carlini_wagner"])
def test_masked_classes_change_nothing(name):
    classifier, images, labels = linear()
    options = {"fab_t": {"steps": 5}, "carlini_wagner": {"max_iterations": 40}}
    attack = attacks.create(name, **options.get(name, {"epsilon": 0.05, "queries": 50}))
    plain = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    masked = attacks.perturb(attack, Masked(classifier), images, labels, key=KEY)
    assert plain.success.mean() >= 0.75
    np.testing.assert_array_equal(masked.success, plain.success)
    # Not bit for bit: the programs differ, and so does their rounding.
    np.testing.assert_allclose(masked.images, plain.images, atol=2e-3)


def test_fab_stops_where_it_is_near_enough():
    classifier, images, labels = linear()
    exact = exact_distances("linf")
    plain = attacks.perturb(attacks.fab_t(steps=30), Undefended(classifier), images, labels, key=KEY)
    attack = attacks.fab_t(steps=30, epsilon=2 * exact)
    quick = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert (length(quick.images - images, "linf") <= 2 * exact * (1 + 1e-5)).all()
    assert quick.steps.max() < 10
    assert (plain.steps == 4 * 30).all()  # 4 targets


def test_humps_against_torchattacks():
    reference = torchattacks.Square(torch.nn.Linear(1, 1), norm="L2")
    reference.device = "cpu"
    for side in (3, 4, 7, 20, 33):
        first = reference.eta_rectangles(side // 2, side)
        second = reference.eta_rectangles(side - side // 2, side)
        expected = np.concatenate([first.numpy(), -second.numpy()])
        rows, columns = jnp.arange(40)[:, None, None] - 5, jnp.arange(40)[None, :, None] - 2
        for turned in (False, True):
            found = _humps(rows, columns, jnp.int32(side), jnp.bool_(turned))[..., 0]
            window = found[5 : 5 + side, 2 : 2 + side]
            np.testing.assert_allclose(window, expected.T if turned else expected, atol=1e-6)
            assert jnp.sum(found**2) == pytest.approx(float(jnp.sum(window**2)), rel=1e-5)


@pytest.mark.parametrize("rescale", [False, True])
def test_area_schedule_against_torchattacks(rescale):
    reference = torchattacks.Square(torch.nn.Linear(1, 1), n_queries=5000, resc_schedule=rescale)
    attack = attacks.square(queries=5000, rescale=rescale)
    turns = np.arange(0, 5000, 7)
    found = jax.vmap(attack._area)(turns)
    np.testing.assert_allclose(found, [reference.p_selection(int(turn)) for turn in turns], rtol=1e-6)


@pytest.mark.parametrize("queries", [1, 7, 999, 5000, 10_000, 12_345, 1_000_000, 2**31 - 1])
def test_a_schedule_is_stretched_to_any_number_of_queries(queries):
    """Whose product with 10000 int32 does not hold."""
    schedule = (0, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    near = {at * queries // 10_000 + side for at in (*schedule, 10_000) for side in (-1, 0, 1, 2)}
    turns = sorted(turn for turn in near if 0 <= turn < queries)
    expected = [sum(turn * 10_000 // queries > at for at in schedule) for turn in turns]
    for given in (queries, jnp.int32(queries)):
        found = jax.vmap(lambda turn, given=given: passed(schedule, turn, given))(jnp.array(turns, jnp.int32))
        np.testing.assert_array_equal(found, expected)


def test_square_l2_keeps_within_the_ball_and_uses_it():
    classifier, images, labels = linear()
    epsilon = 4 * exact_distances("l2")
    attack = attacks.square(epsilon, norm="l2", queries=300)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=KEY)
    assert (result.l2 <= epsilon * (1 + 1e-5)).all()
    assert (result.l2 > 0.9 * epsilon).all()
    assert result.success.mean() >= 0.75
    assert result.steps[result.success].max() < 300
    assert (result.steps[~result.success] == 300).all()


def proposal_of_the_authors(rng, perturbation, epsilon, side):
    """The perturbation after one step of algorithm 3, window by window and channel by channel, in NumPy."""
    height, width, channels = perturbation.shape
    reference = torchattacks.Square(torch.nn.Linear(1, 1), norm="L2")
    reference.device = "cpu"
    corners = rng.integers(0, (height - side + 1, width - side + 1), (2, 2))
    to, source = (np.s_[top : top + side, left : left + side] for top, left in corners)
    within = np.zeros((height, width), bool)
    within[to] = within[source] = True
    unused = max(epsilon**2 - np.sum(perturbation**2), 0)
    shape = reference.eta(side).numpy()
    result = perturbation.copy()
    for c in range(channels):
        old = perturbation[..., c][to]
        new = shape * rng.choice([-1, 1]) + old / max(np.linalg.norm(old), 1e-30)
        mass = np.sum(perturbation[within, c] ** 2) + unused / channels
        result[..., c][source] = 0
        result[..., c][to] = new / np.linalg.norm(new) * np.sqrt(mass)
    return epsilon * result / np.linalg.norm(result)


def test_square_l2_moves_the_norm_of_every_channel_for_itself():
    """The norms of the channels after a proposal are distributed as the authors' are."""
    draws, epsilon, side = 400, 0.8, 5
    rng = np.random.default_rng(0)
    perturbation = rng.normal(size=(12, 12, 3)) * [1.0, 0.3, 0.0]
    perturbation *= 0.9 * epsilon / np.linalg.norm(perturbation)
    torch.manual_seed(0)
    theirs = np.stack([proposal_of_the_authors(rng, perturbation, epsilon, side) for _ in range(draws)])
    image = jnp.full((12, 12, 3), 0.5)
    attack = attacks.square(epsilon, norm="l2")
    zero = jnp.int32(0)
    start = image + jnp.asarray(perturbation, jnp.float32)
    state = QueryState(image, zero, KEY, iteration=zero, draws=zero, x=start, loss=0.0, adversarial=False)
    area = jnp.float32(side**2 / 144)
    propose = jax.vmap(lambda key: attack._propose_l2(state, area, key))
    ours = np.asarray(propose(jax.random.split(KEY, draws))) - 0.5
    norms = [np.linalg.norm(found, axis=(1, 2)) for found in (ours, theirs)]
    np.testing.assert_allclose(np.linalg.norm(norms[0], axis=1), epsilon, rtol=1e-3)
    # Four standard errors of the difference of two means.
    error = np.sqrt((norms[0].var(axis=0) + norms[1].var(axis=0)) / draws)
    assert (np.abs(norms[0].mean(axis=0) - norms[1].mean(axis=0)) <= 4 * error + 1e-4).all()
    # Without anything left of ε a channel gets only what is its own: nothing, here.
    state = state.replace(x=image + jnp.asarray(perturbation / 0.9, jnp.float32))
    last = np.asarray(propose(jax.random.split(KEY, 50)))[..., 2] - 0.5
    assert np.abs(last).max() < 1e-3


class Convolutional(nnx.Module):
    """Two layers of random weights, for images of 16 pixels."""

    num_classes = 10

    def __init__(self):
        rngs, init = nnx.Rngs(0), nnx.initializers.he_normal()
        self.first = nnx.Conv(3, 16, (4, 4), 4, kernel_init=init, rngs=rngs)
        self.last = nnx.Linear(256, 10, kernel_init=init, rngs=rngs)

    def __call__(self, images):
        return self.last(nnx.relu(self.first(images - 0.5)).reshape(len(images), -1))


class InTorch(torch.nn.Module):
    """The same network."""

    def __init__(self, network):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 4, 4)
        self.last = torch.nn.Linear(256, 10)
        for layer, like in ((self.first, network.first), (self.last, network.last)):
            kernel, bias = (torch.from_numpy(np.array(part[...])) for part in (like.kernel, like.bias))
            layer.weight.data = kernel.permute(3, 2, 0, 1).contiguous() if kernel.ndim == 4 else kernel.T
            layer.bias.data = bias

    def forward(self, images):
        hidden = torch.relu(self.first(images - 0.5)).permute(0, 2, 3, 1)
        return self.last(hidden.flatten(1))


@pytest.mark.parametrize(("norm", "epsilon"), [("l2", 0.7), ("linf", 0.03)])
def test_square_finds_as_much_as_torchattacks(norm, epsilon):
    """At few queries and a radius at which about half of the images fall."""
    network = Convolutional()
    images = np.random.default_rng(0).uniform(size=(300, 16, 16, 3)).astype(np.float32)
    labels = np.asarray(network(images).argmax(-1))
    inputs, targets = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    model = InTorch(network).eval()
    np.testing.assert_allclose(model(inputs).detach().numpy(), network(images), atol=1e-4)
    attack = torchattacks.Square(
        model, norm={"l2": "L2", "linf": "Linf"}[norm], eps=epsilon, n_queries=100, resc_schedule=False
    )
    theirs = float((model(attack(inputs, targets.long())).argmax(1).numpy() != labels).mean())
    attack = attacks.square(epsilon, norm=norm, queries=100)
    ours = attacks.perturb(attack, Undefended(network), images, labels, key=KEY).success.mean()
    print(norm, ours, theirs)
    assert 0.2 < theirs < 0.9  # or the comparison says nothing
    # Three standard errors of the difference of two shares of 300 images.
    assert ours >= theirs - 0.12


@struct.dataclass
class Noisy:
    """A random victim: its logits have noise of the size of their usual lead."""

    classifier: nnx.Module

    num_classes = 10

    def __call__(self, image, key):
        return self.classifier(image[None])[0] + 0.3 * jax.random.normal(key, (10,))


def test_square_averages_the_draws_of_a_random_victim_and_counts_each():
    network = Convolutional()
    images = np.random.default_rng(0).uniform(size=(64, 16, 16, 3)).astype(np.float32)
    labels = np.asarray(network(images).argmax(-1))
    attack = attacks.square(0.08, queries=1000, stop_early=False)
    single = Noisy(network)
    accuracy = {}
    for draws, victim in ((1, single), (10, ExpectationOverTransformation(single, 10, "logits"))):
        result = attacks.perturb(attack, victim, images, labels, key=KEY)
        assert (result.steps == 1000 // draws).all()
        shares = attacks.accuracy_over_draws(single, result.images, labels, key=jax.random.key(1), draws=50)
        accuracy[draws] = shares.mean()
    # As many queries: a search that compares single draws keeps the luckiest and stalls. 0.40 and 0.31 when
    # this was written; the shares have a standard error of less than 0.01.
    assert accuracy[10] <= accuracy[1] - 0.04


@struct.dataclass
class Scaled:
    """The classifier with its logits on another scale: the order of the classes is the same."""

    classifier: linear_victims.Linear
    factor: float

    num_classes = 2

    def __call__(self, image, key):
        return self.factor * self.classifier(image[None])[0] ** 3


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hop_skip_jump_comes_near_the_nearest_point_and_sees_nothing_but_the_class(norm):
    # Two classes: with more, a search along one boundary may miss a nearer one.
    classifier, images, labels = linear(2)
    attack = attacks.hop_skip_jump(norm=norm, steps=20)
    result = attacks.perturb(attack, Scaled(classifier, 1.0), images, labels, key=KEY)
    assert result.success.all()
    ratio = length(result.images - images, norm) / exact_distances(norm, 2)
    assert ratio.min() >= 1 - 1e-4
    assert np.median(ratio) <= 1.1
    assert ratio.max() <= 1.25
    other = attacks.perturb(attack, Scaled(classifier, 100.0), images, labels, key=KEY)
    np.testing.assert_array_equal(other.images, result.images)


def test_hop_skip_jump_starts_where_one_says():
    """One image for all, or one per image; a targeted attack then reaches a class that noise never is."""
    classifier, images, _ = linear(2)
    # Noise is classified as 0, whatever it is.
    weights = np.asarray(classifier.weights[...])
    classifier = linear_victims.Linear(weights, np.array([20.0, -0.0]) - 0.5 * weights.sum(axis=0))
    assert (linear_victims.predictions(classifier, images) == 0).all()
    start = np.where(weights[:, 1] > weights[:, 0], 1, 0).reshape(linear_victims.SHAPE).astype(np.float32)
    victim, ones = Undefended(classifier), np.ones(len(images), int)

    def run(start, labels=ones, **options):
        attack = attacks.hop_skip_jump(steps=12, targeted=True, start=start, **options)
        return attacks.perturb(attack, victim, images, labels, key=KEY)

    blind = run(None)
    assert not blind.success.any()
    np.testing.assert_array_equal(blind.images, images)
    found = run(start)
    assert found.success.all()
    assert (found.l2 < 0.5 * np.linalg.norm((start - images).reshape(len(images), -1), axis=1)).all()
    # The second half starts from the images themselves, which are not of the target.
    starts = np.where(np.arange(len(images))[:, None, None, None] < 2, start, images)
    half = run(starts)
    np.testing.assert_array_equal(half.success, np.arange(len(images)) < 2)
    np.testing.assert_array_equal(half.images[:2], found.images[:2])
    np.testing.assert_array_equal(half.images[2:], images[2:])
    untargeted = attacks.hop_skip_jump(steps=12, start=start)
    assert attacks.perturb(untargeted, victim, images, 0 * ones, key=KEY).success.all()
    # As a function of one image.
    alone = attacks.hop_skip_jump(steps=2, targeted=True, start=start)(victim, images[0], 1, KEY)
    assert linear_victims.predictions(classifier, alone[None])[0] == 1


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (np.zeros((6, 5, 1), np.float32), r"start must be one image \(6, 5, 3\) or one per image"),
        (np.zeros((2, 6, 5, 3), np.float32), r"one per image \(4, 6, 5, 3\), not \(2, 6, 5, 3\)"),
        (np.full((6, 5, 3), 255, np.uint8), "floats in"),
    ],
)
def test_a_start_of_another_shape_or_type_is_refused(start, message):
    classifier, images, labels = linear(2)
    with pytest.raises(InputError, match=message):
        attacks.perturb(attacks.hop_skip_jump(start=start), Undefended(classifier), images, labels, key=KEY)
