"""SimBA beside a transcription of its algorithm 1 in NumPy, ART, and the order of its authors."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
import scipy.fft
import scipy.special
from art.attacks.evasion import SimBA
from art.estimators.classification import BlackBoxClassifierNeuralNetwork
from flax import nnx, struct

from srdef import attacks
from srdef.errors import InputError
from srdef.victims import ExpectationOverTransformation, Undefended

KEY = jax.random.key(0)


class Network(nnx.Module):
    """tanh(x W1) W2 on images of any size, in JAX and in NumPy."""

    def __init__(self, shape, classes=5, scale=1.0):
        rng = np.random.default_rng(0)
        size = int(np.prod(shape))
        self.first = nnx.Param(jnp.asarray(rng.normal(size=(size, 24)) * 2 / np.sqrt(size), jnp.float32))
        self.second = nnx.Param(jnp.asarray(scale * rng.normal(size=(24, classes)), jnp.float32))
        self.num_classes = classes

    def __call__(self, images):
        hidden = jnp.tanh(jnp.matmul(images.reshape(len(images), -1), self.first[...], precision="highest"))
        return jnp.matmul(hidden, self.second[...], precision="highest")


def in_numpy(network):
    """The function from images to probabilities, in float64."""
    first, second = (np.asarray(part[...], np.float64) for part in (network.first, network.second))

    def probabilities(images):
        return scipy.special.softmax(np.tanh(images.reshape(len(images), -1) @ first) @ second, axis=1)

    return probabilities


def problem(shape, count, scale=1.0):
    network = Network(shape, scale=scale)
    images = np.random.default_rng(1).uniform(0, 1, (count, *shape)).astype(np.float32)
    return network, images, in_numpy(network)(images).argmax(axis=1)


def directions(basis, shape):
    """All vectors of the basis in the order of their places, by SciPy."""
    unit = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    return unit if basis == "pixel" else scipy.fft.idctn(unit, axes=(1, 2), norm="ortho")


def transcription(probabilities, image, label, vectors, step_size, targeted):
    """Algorithm 1: the image after every query, until it is adversarial."""
    x = image.astype(np.float64)

    def ask(x):
        found = probabilities(x[None])[0]
        return found[label], found.argmax() == label

    last, hit = ask(x)
    for vector in vectors:
        for sign in (1, -1):
            if hit == targeted:
                return
            moved = np.clip(x + sign * step_size * vector, 0, 1)
            found, now = ask(moved)
            better = found > last if targeted else found < last
            if better:
                x, last, hit = moved, found, now
            yield x
            if better:
                break


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_every_query_is_that_of_algorithm_1(basis, targeted):
    network, images, labels = problem((6, 5, 3), 4)
    labels = (labels + 1) % 5 if targeted else labels
    attack = attacks.simba(basis=basis, targeted=targeted, queries=1000)
    victim = Undefended(network)
    init, step, finished = map(jax.jit, (attack.init, attack.step, attack.finished))
    vectors, probabilities = directions(basis, (6, 5, 3)), in_numpy(network)
    lengths = []
    for image, label in zip(images, labels, strict=True):
        state = init(victim, jnp.asarray(image), jnp.asarray(label), KEY)
        # Only the order is not the transcription's own.
        expected = transcription(probabilities, image, label, vectors[state.order], 0.2, targeted)
        for x in expected:
            assert not finished(state)
            state = step(victim, state)
            # Float32 beside float64.
            np.testing.assert_allclose(state.x, x, atol=1e-5)
        assert finished(state)
        lengths.append(int(state.iteration))
    assert max(lengths) > 20  # or it says little
    result = attacks.perturb(attack, victim, images, labels, key=KEY)
    assert result.success.all()


@pytest.mark.parametrize("shape", [(6, 5, 3), (7, 16, 1)])
@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_the_directions_are_orthonormal_and_each_comes_once(basis, shape):
    attack = attacks.simba(basis=basis)
    size = int(np.prod(shape))
    found = jax.vmap(lambda place: attack._direction(place, shape))(jnp.arange(size))
    np.testing.assert_allclose(found, directions(basis, shape), atol=1e-6)
    orders = [np.asarray(attack._order(shape, jax.random.key(seed))) for seed in range(2)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert not np.array_equal(*orders)


def test_a_high_frequency_of_a_large_image_is_exact():
    """Where float32 would have lost the phase of the cosine: after a hundred periods."""
    attack = attacks.simba(basis="dct")
    unit = np.zeros((299, 224, 3))
    unit[290, 221, 1] = 1
    place = np.flatnonzero(unit.ravel())[0]
    expected = scipy.fft.idctn(unit, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(attack._direction(place, unit.shape), expected, atol=1e-8)


def test_frequencies_come_in_the_blocks_of_the_authors():
    """On ImageNet 28 by 28 of 224, then 7 more at a time."""
    order = np.asarray(attacks.simba(basis="dct")._order((224, 224, 3), KEY))
    rows, columns, channels = np.unravel_index(order, (224, 224, 3))
    reach = np.maximum(rows, columns)
    start = 0
    for side in range(28, 225, 7):
        end = 3 * side**2
        assert reach[start:end].max() == side - 1
        assert reach[start:end].min() == (0 if start == 0 else side - 7)
        # Within a block, and across the channels, the order is random.
        assert set(channels[start : start + 50]) == {0, 1, 2}
        assert (np.diff(order[start:end]) < 0).mean() == pytest.approx(0.5, abs=0.1)
        start = end


@pytest.mark.parametrize("basis", ["pixel", "dct"])
def test_as_many_steps_and_as_near_as_art(basis):
    """ART takes the better of both signs where both help, and asks for both every time."""
    network, images, labels = problem((16, 16, 3), 40)
    ours = attacks.perturb(attacks.simba(basis=basis), Undefended(network), images, labels, key=KEY)
    probabilities, asked = in_numpy(network), []

    def predict(x):
        asked.append(len(x))
        return probabilities(x)

    wrapped = BlackBoxClassifierNeuralNetwork(
        predict, (16, 16, 3), 5, clip_values=(0, 1), channels_first=False
    )
    np.random.seed(0)  # noqa: NPY002 (ART draws from it)
    options = {"attack": {"pixel": "px", "dct": "dct"}[basis], "epsilon": 0.2, "verbose": False}
    # An eighth of 16 frequencies, and one more at a time.
    theirs = SimBA(wrapped, **options, max_iter=768, freq_dim=2, stride=1)
    attacked = theirs.generate(images.copy(), np.eye(5)[labels])
    distances = np.linalg.norm((attacked - images).reshape(len(images), -1), axis=1)
    assert ours.success.all()
    assert (probabilities(attacked).argmax(axis=1) != labels).all()
    queries = sum(asked) / len(images)
    print(basis, ours.l2.mean(), distances.mean(), ours.steps.mean(), queries)
    # The orders are random: five standard errors of the mean difference.
    difference = ours.l2 - distances
    error = difference.std() / np.sqrt(len(images))
    assert abs(difference.mean()) <= 5 * error
    assert error < 0.1 * distances.mean()  # or it says little
    # Between one query for a direction and two, where ART always takes two.
    assert ours.steps.mean() <= 0.9 * queries


def test_a_victim_whose_probability_rounds_to_one_is_attacked_all_the_same():
    """Logits times 100: in float32 the softmax of the label is exactly 1."""
    network, images, labels = problem((6, 5, 3), 6, scale=100.0)
    softmax = jax.nn.softmax(network(jnp.asarray(images)))
    assert (softmax.max(axis=1) == 1).all()
    sure = attacks.perturb(attacks.simba(), Undefended(network), images, labels, key=KEY)
    unsure = attacks.perturb(attacks.simba(), Undefended(Network((6, 5, 3))), images, labels, key=KEY)
    assert sure.success.all()
    # It takes another path, as all classes but the likeliest other one count for nothing then.
    assert np.median(sure.l2) <= 1.5 * np.median(unsure.l2)


def test_a_perturbation_is_as_long_as_the_kept_steps_at_most():
    network, images, labels = problem((6, 5, 3), 6)
    result = attacks.perturb(attacks.simba(0.05, basis="dct"), Undefended(network), images, labels, key=KEY)
    assert (result.l2 <= 0.05 * np.sqrt(result.steps) + 1e-5).all()
    assert (result.l2 > 0).all()


def test_where_nothing_helps_each_direction_takes_two_queries():
    constant = Undefended(linear_victims.Constant([1.0, 0.0]))
    images, labels = linear_victims.images(2), np.zeros(2, int)
    for queries, steps in ((31, 31), (10_000, 180)):  # of 90 directions
        result = attacks.perturb(attacks.simba(queries=queries), constant, images, labels, key=KEY)
        assert (result.steps == steps).all()
        np.testing.assert_array_equal(result.images, images)


@struct.dataclass
class Noisy:
    """A random victim: its logits have noise of the size of their usual lead."""

    network: nnx.Module

    num_classes = 5

    def __call__(self, image, key):
        return self.network(image[None])[0] + 0.3 * jax.random.normal(key, (5,))


def test_the_draws_of_a_random_victim_are_averaged_and_each_counts():
    network, images, labels = problem((6, 5, 3), 8)
    attack = attacks.without_early_stop(attacks.simba(queries=300))
    victim = ExpectationOverTransformation(Noisy(network), 10)
    result = attacks.perturb(attack, victim, images, labels, key=KEY, draws=20)
    assert (result.steps == 30).all()
    before = attacks.accuracy_over_draws(Noisy(network), images, labels, key=KEY, draws=50)
    after = attacks.accuracy_over_draws(Noisy(network), result.images, labels, key=KEY, draws=50)
    # 400 draws each: ten standard errors.
    assert after.mean() <= before.mean() - 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"basis": "wavelet"}, "unknown basis 'wavelet'; choose from: pixel, dct"),
        ({"queries": 0}, "queries must be an integer of at least 1"),
        ({"step_size": -0.1}, "step_size must not be negative"),
        ({"lowest": 0}, "lowest must be above 0, the share of the frequencies to begin with, not 0"),
        ({"lowest": 28}, r"lowest must lie in \[0, 1\], but is 28"),
        ({"epsilon": 0.2}, "its options are: step_size, basis, queries"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        attacks.simba(**options)
