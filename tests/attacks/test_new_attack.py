"""An attack of one's own, written as the guide prints it, everywhere where srdef's own attacks work."""

import jax
import jax.numpy as jnp
import linear_victims
import numpy as np
import pytest
from flax import struct

from srdef import attacks, victims
from srdef.attacks import losses, projections
from srdef.errors import InputError, SrdefWarning
from srdef.images import from_uint8, to_uint8
from srdef.victims import Undefended

KEY = jax.random.key(0)


@struct.dataclass
class Steepest(attacks.Attack):
    """Steps of epsilon / 4 along the gradient of the cross-entropy, in the L2 ball."""

    epsilon: float = 1.0
    steps: int = struct.field(pytree_node=False, default=10)
    norm = "l2"

    def init(self, victim, image, label, key):
        return {"image": image, "label": label, "key": key, "x": image}

    def step(self, victim, state):
        key, draw = jax.random.split(state["key"])

        def loss(x):
            return victims.expected(victim, lambda z: losses.cross_entropy(z, state["label"]), x, draw)

        gradient = jax.grad(loss)(state["x"])
        direction = projections.safe_divide(gradient, jnp.linalg.norm(gradient))
        x = state["x"] + self.epsilon / 4 * direction
        return state | {"key": key, "x": projections.project(state["image"], x, self.epsilon, "l2")}

    def result(self, state):
        return state["x"]


def problem():
    classifier = linear_victims.linear(5)
    images = from_uint8(to_uint8(linear_victims.images(6)))
    return Undefended(classifier), images, linear_victims.predictions(classifier, images)


def test_through_perturb_and_as_a_function():
    victim, images, labels = problem()
    attack = Steepest(0.2)
    assert not attack.targeted
    assert attack.max_steps == 10
    assert not attack.stops_early
    result = attacks.perturb(attack, victim, images, labels, key=KEY)
    assert result.success.all()
    assert (result.steps == 10).all()
    assert 0.19 < result.l2.max() <= 0.2 + 1e-6
    alone = attack(victim, images[2], labels[2], jax.random.fold_in(KEY, 2))
    np.testing.assert_allclose(alone, result.images[2], atol=1e-5)


def test_rounded_within_its_ball():
    victim, images, labels = problem()
    result = attacks.perturb(Steepest(0.2), victim, images, labels, key=KEY, storage="uint8")
    np.testing.assert_array_equal(from_uint8(to_uint8(result.images)), result.images)
    assert result.l2.max() <= 0.2 + 1e-6
    assert result.success.all()


def test_transferred_and_in_an_ensemble():
    victim, images, labels = problem()
    result = attacks.transfer(Steepest(0.2), victim, victim, images, labels, key=KEY)
    assert result.success.all()
    radii = np.linspace(0, 0.2, 6)
    ensemble = attacks.autoattack(radii, "l2", attacks={"steepest": Steepest(radii)})
    mixed = attacks.perturb(ensemble, victim, images, labels, key=KEY)
    assert mixed.clean_accuracy == 1
    assert mixed.accuracy[0] == 1  # its ball is a point
    assert mixed.broken_by[-1] == "steepest"


@struct.dataclass
class Smallest(Steepest):
    """Without an epsilon of its own: the first of its steps that is adversarial."""

    minimal_norm = True

    def init(self, victim, image, label, key):
        state = super().init(victim, image, label, key)
        return state | {"done": attacks.is_adversarial(self, victim(image, key), label)}

    def step(self, victim, state):
        state = super().step(victim, state)
        logits = victim(state["x"], state["key"])
        return state | {"done": attacks.is_adversarial(self, logits, state["label"])}

    def finished(self, state):
        return state["done"]


def test_an_early_finish_is_known_from_the_method_alone():
    victim, images, labels = problem()
    attack = Smallest(0.2)
    assert attack.stops_early
    labels = np.where(np.arange(6) == 0, (labels + 1) % 5, labels)
    result = attacks.perturb(attack, victim, images, labels, key=KEY, storage="uint8")
    assert result.success.all()
    assert result.steps[0] == 0
    assert 0 < result.steps[1:].max() < 10
    alone = attack(victim, images[0], labels[0], jax.random.fold_in(KEY, 0))
    np.testing.assert_array_equal(alone, images[0])


def test_by_name(monkeypatch):
    monkeypatch.setattr(attacks.REGISTRY, "_builders", dict(attacks.REGISTRY._builders))
    for _ in range(2):  # as when a notebook's cell is run again
        attacks.REGISTRY.register("steepest")(Steepest)
    assert attacks.create("steepest", epsilon=0.5).epsilon == 0.5


def test_what_is_missing_is_named():
    @struct.dataclass
    class Half(attacks.Attack):
        def init(self, victim, image, label, key):
            return image

    with pytest.raises(TypeError, match=r"result.*step"):
        Half()


@struct.dataclass
class Counted(Steepest):
    counts = ("steps",)
    decay: float = struct.field(pytree_node=False, default=0.9)
    flag: bool = struct.field(pytree_node=False, default=True)


WRONG = {
    "steps": "counts must be a tuple of names, as ('steps',), not 'steps'",
    ("tries",): "'tries' is neither",
    ("steps", "decay"): "'decay' is neither",
    ("flag",): "'flag' is neither",
    ("epsilon",): "'epsilon' is neither",
    ("norm",): "'norm' is neither",
    (3,): "3 is neither",
}


@pytest.mark.parametrize("counts", WRONG)
def test_what_is_no_count_is_refused(counts):
    """An int32 array of 0.9 would be one of 0."""
    wrong = struct.dataclass(type("Wrong", (Counted,), {"counts": counts}))
    with pytest.raises(InputError) as refused:
        attacks.perturb(wrong(0.2), *problem(), key=KEY)
    assert str(refused.value).startswith("Wrong.counts")
    assert WRONG[counts] in str(refused.value)
    if isinstance(counts, tuple):
        assert str(refused.value).endswith("the class has steps")


def test_an_attack_that_is_no_dataclass_has_no_counts():
    @jax.tree_util.register_static
    class Still(attacks.Attack):
        counts = ("steps",)
        steps = 1
        epsilon = 0.1

        def init(self, victim, image, label, key):
            return image

        def step(self, victim, state):
            return state

        def result(self, state):
            return state

    with pytest.raises(InputError, match=r"^Still.counts: 'steps' is neither .*; the class has none$"):
        attacks.perturb(Still(), *problem(), key=KEY)
    del Still.counts
    assert (attacks.perturb(Still(), *problem(), key=KEY).steps == 1).all()


def test_more_steps_than_can_be_counted_are_refused():
    """They would be a negative number, and the attack would be over before its first step."""
    with pytest.raises(
        InputError, match=r"GradientSign would take 4000000004 steps, of which 2147483646 can"
    ):
        attacks.perturb(attacks.pgd(0.1, steps=10**9, restarts=4), *problem(), key=KEY)


@struct.dataclass
class Unrolled(attacks.Attack):
    """All steps of another attack in one, as its code may since it declares no counts."""

    attack: attacks.Attack
    steps: int = struct.field(pytree_node=False, default=1)

    @property
    def epsilon(self):
        return self.attack.epsilon

    def init(self, victim, image, label, key):
        return self.attack.init(victim, image, label, key)

    def step(self, victim, state):
        for _ in range(self.attack.steps):
            state = self.attack.step(victim, state)
        return state

    def result(self, state):
        return self.attack.result(state)


def test_the_counts_of_an_attack_within_one_that_declares_none_are_numbers():
    victim, images, labels = problem()
    inner = attacks.ifgsm(0.1, steps=3)
    unrolled = attacks.perturb(Unrolled(inner), victim, images, labels, key=KEY)
    np.testing.assert_allclose(
        unrolled.images, attacks.perturb(inner, victim, images, labels, key=KEY).images, atol=1e-6
    )


def test_the_counts_of_an_attack_within_one_that_declares_it_are_traced():
    @struct.dataclass
    class Same(Unrolled):
        counts = ("attack",)

        def step(self, victim, state):
            assert isinstance(self.attack.steps, jax.Array)
            return jax.lax.fori_loop(
                0, self.attack.steps, lambda _, state: self.attack.step(victim, state), state
            )

    victim, images, labels = problem()
    three, five = (
        attacks.perturb(Same(attacks.ifgsm(0.1, steps=n, step_size=0.01)), victim, images, labels, key=KEY)
        for n in (3, 5)
    )
    np.testing.assert_allclose(three.linf, 0.03, atol=1e-6)
    np.testing.assert_allclose(five.linf, 0.05, atol=1e-6)


@pytest.mark.parametrize(
    ("first", "factor", "message"),
    [
        (1, 0.9, r"\['part'\] the type float32, which int32"),
        (True, 2, r"\['part'\] the type int32, which bool"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_state_that_would_be_cut_off_is_refused(first, factor, message, wrapped):
    """As int32 the 0.9 were 0."""

    @struct.dataclass
    class Cut(Steepest):
        def init(self, victim, image, label, key):
            return super().init(victim, image, label, key) | {"part": first}

        def step(self, victim, state):
            return super().step(victim, state) | {"part": factor * state["part"]}

    attack = attacks.minimal_epsilon(Cut(0.2)) if wrapped else Cut(0.2)
    victim, images, labels = problem()
    with pytest.raises(InputError, match=message):
        attacks.perturb(attack, victim, images, labels, key=KEY)
    with pytest.raises(InputError, match=message):
        attack(victim, images[0], labels[0], KEY)


def test_results_outside_of_the_ball_are_told():
    @struct.dataclass
    class Far(Steepest):
        def result(self, state):
            return 1 - state["image"]

    with pytest.warns(SrdefWarning, match=r"6 of 6 results of Far lie outside of its ball of radius ε in l2"):
        attacks.perturb(Far(0.2), *problem(), key=KEY)


def test_an_attack_that_is_no_pytree_is_refused():
    class Plain(Steepest):
        pass

    with pytest.raises(InputError, match=r"Plain is no pytree: write @flax\.struct\.dataclass"):
        attacks.perturb(Plain(0.2), *problem(), key=KEY)


@pytest.mark.parametrize("epsilon", [8, 8.0, -0.1, np.nan, None, "8/255"])
def test_a_replaced_radius_is_checked(epsilon):
    with pytest.raises(InputError, match="epsilon"):
        attacks.perturb(attacks.pgd(0.1).replace(epsilon=epsilon), *problem(), key=KEY)


def test_steps_that_end_far_from_the_border_are_told():
    """`replace` keeps the step size of the old radius."""
    attack = attacks.fgsm(1 / 255).replace(epsilon=32 / 255)
    with pytest.warns(SrdefWarning, match=r"its 1 steps lead 0\.00392 away at most, and its ε is 0\.125"):
        attacks.perturb(attack, *problem(), key=KEY)


def test_few_steps_of_a_fixed_size_are_answered_with_what_helps():
    """TI-FGSM with a step size of its own: making it again with this ε is no help."""
    attack = attacks.tifgsm(32 / 255, step_size=1 / 255, steps=10)
    with pytest.warns(SrdefWarning, match=r"give a larger step_size or more steps"):
        attacks.perturb(attack, *problem(), key=KEY)
