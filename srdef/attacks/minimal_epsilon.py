"""The smallest ε at which an attack with a budget fools the victim, searched for each image.

Plain bisection, and the two searches of foolbox 1.8.0 (`iterative_projected_gradient.py` and `gradient.py` of
bethgelab/foolbox, 2018), whose attacks with a budget looked for the smallest one unless told otherwise.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks.base import (
    REGISTRY,
    Attack,
    is_adversarial,
    within_range,
)
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.epsilon_search import Bisection, Grid
from srdef.attacks.nearest import Nearest
from srdef.attacks.projections import Norm, length
from srdef.attacks.states import same_types, strong_types
from srdef.errors import InputError
from srdef.validation import check_choice, check_numbers, is_traced
from srdef.victims import Victim

Search = Literal["bisection", "foolbox", "foolbox_grid"]

# Steps are judged with draws of their own; other purposes of an image's key are RESTART and NEIGHBOUR.
JUDGE = 0xFFFFFFD0


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array  # counts steps over all runs
    taken: jax.Array  # steps of this run
    run: Any  # the state of the attack
    fooled: jax.Array  # whether this run has fooled the victim
    search: Any  # Interval or Point
    nearest: Nearest
    diagnostics: Diagnostics


@struct.dataclass
class MinimalEpsilon(Attack):
    """Run an attack again and again, each time at the ε that a search chooses after the run before.

    The step size, if the attack has one, keeps its ratio to ε. All runs of an image draw from the same key:
    the run at some ε is the attack with that ε. After each step the image is judged, which costs one
    evaluation. A run has fooled the victim if one of these images has, and with `return_early` it ends there.
    The result is the nearest of all adversarial images seen. An image that is misclassified already stays as
    it is.

    An attack that fools at some ε may fail at a larger one. Bisection finds an ε at which it begins to fool,
    which need not be the first; the grid finds the first of its points.

    Parameters
    ----------
    attack : Attack
        With an `epsilon`, where the search begins.
    rule : Bisection or Grid
    distance : "linf", "l2" or "l1", optional
        In which "nearest" is meant; default: the norm of the attack's ball.
    return_early : bool
    """

    counts: ClassVar = ("attack",)
    attack: Attack
    rule: Bisection | Grid = struct.field(pytree_node=False, default=Bisection(1, 10))
    distance: Norm | None = struct.field(pytree_node=False, default=None)
    return_early: bool = struct.field(pytree_node=False, default=True)

    # It has the ε of the result to find, and none to stay within.
    minimal_norm = True

    @property
    def targeted(self) -> bool:  # type: ignore[override]
        return self.attack.targeted

    @property
    def norm(self) -> Any:  # type: ignore[override]
        return self.attack.norm

    @property
    def uses_gradients(self) -> bool:  # type: ignore[override]
        return self.attack.uses_gradients

    @property
    def enlarges(self) -> bool:
        """Whether the victim sees images that are larger than those given, as the attack has it."""
        return getattr(self.attack, "enlarges", False)

    @property
    def reach(self) -> Any:
        """The largest ε that the search tries."""
        return self.rule.reach * self.attack.epsilon  # type: ignore[attr-defined]

    @property
    def max_steps(self) -> int:
        return self.rule.runs * self.attack.max_steps

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        search = self.rule.start(jnp.asarray(self.attack.epsilon, image.dtype))  # type: ignore[attr-defined]
        judge = jax.random.fold_in(key, JUDGE)
        already = is_adversarial(self, victim(image, jax.random.fold_in(judge, 0)), label)
        return State(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            taken=jnp.int32(0),
            run=self._at(search.epsilon).init(victim, image, label, key),
            fooled=jnp.bool_(False),
            search=search,
            nearest=Nearest.create(image).update(image, jnp.zeros((), image.dtype), already),
            diagnostics=Diagnostics.create(),
        )

    def step(self, victim: Victim, state: State) -> State:
        attack = self._at(state.search.epsilon)
        run = same_types(attack.step(victim, state.run), state.run)
        x, _ = within_range(attack.result(run), state.image)
        judge = jax.random.fold_in(jax.random.fold_in(state.key, JUDGE), state.iteration + 1)
        adversarial = is_adversarial(self, victim(x, judge), state.label)
        distance = length(x - state.image, self.distance or self.norm)

        fooled, taken = state.fooled | adversarial, state.taken + 1
        over = attack.finished(run) | (taken >= attack.max_steps) | (self.return_early & fooled)
        search = _choose(over, self.rule.next(state.search, fooled), state.search)
        noted = getattr(run, "diagnostics", Diagnostics.create())
        fresh = self._at(search.epsilon).init(victim, state.image, state.label, state.key)
        return state.replace(
            iteration=state.iteration + 1,
            taken=jnp.where(over, 0, taken),
            run=_choose(over, fresh, run),
            fooled=fooled & ~over,
            search=search,
            nearest=state.nearest.update(x, distance, adversarial),
            diagnostics=jax.tree.map(jnp.logical_or, state.diagnostics, noted),
        )

    def finished(self, state: State) -> jax.Array:
        return state.nearest.at_start | (state.search.left <= 0)

    def result(self, state: State) -> jax.Array:
        return state.nearest.image

    def _at(self, epsilon: jax.Array) -> Attack:
        """The attack with another ε."""
        attack: Any = self.attack
        changes = {"epsilon": epsilon}
        if hasattr(attack, "step_size"):
            changes["step_size"] = attack.step_size / attack.epsilon * epsilon
        return attack.replace(**changes)


def _choose(condition: jax.Array, one: Any, other: Any) -> Any:
    """`one` where the condition holds, `other` otherwise."""
    return jax.tree.map(
        lambda new, old: jnp.where(condition, new, old), same_types(strong_types(one), other), other
    )


@REGISTRY.register("minimal_epsilon")
def minimal_epsilon(
    attack: str | Mapping[str, Any] | Attack = "ifgsm",
    *,
    search: Search = "bisection",
    tolerance: float | None = None,
    distance: Norm | None = None,
    return_early: bool = True,
) -> MinimalEpsilon:
    """The smallest ε at which an attack fools, for each image.

    Parameters
    ----------
    attack : str, mapping or Attack
        A registered name, `{"name": "pgd", "steps": 20}`, or an attack. It has an `epsilon`, where the search
        begins; its step size keeps its ratio to ε.
    search : "bisection", "foolbox" or "foolbox_grid"
        - "bisection": between 0 and the attack's own ε. An image that it does not fool at its own ε is a
          failure.
        - "foolbox": the attack's own ε, then one 1.5 times as large, and so on up to 20 of them, then 20
          halvings of the interval between 0 and the first that fools. Foolbox 1.8 does this by default
          (`binary_search=True`) in its iterative attacks, from ε 0.3, with 10 iterations of 0.05 in I-FGSM
          and of 0.06 in MI-FGSM.
        - "foolbox_grid": thousandths of the attack's own ε, rising; if one of the first 20 fools, once more
          twentieths of that. Foolbox 1.8 does this in its FGSM, with ε 1.
    tolerance : float, optional
        Of "bisection": how far above the ε found there may be a smaller one, in the unit of ε. Default: a
        thousandth of the attack's ε.
    distance : "linf", "l2" or "l1", optional
        The result is the nearest of all adversarial images in this norm. Default: that of the attack's ball,
        and L2 in the searches of foolbox, as there.
    return_early : bool
        Whether a run ends at its first adversarial image.

    Raises
    ------
    InputError
        For an unknown attack or search, or an attack without an ε, or with an ε that is not positive.
    """
    check_choice("search", search, get_args(Search))
    if distance is not None:
        check_choice("distance", distance, get_args(Norm))
    made = _made(attack)
    epsilon = np.asarray(made.epsilon)  # type: ignore[attr-defined]
    if tolerance is not None and search != "bisection":
        raise InputError(f'tolerance is for the search "bisection", not {search!r}')
    if search != "bisection":
        rule: Bisection | Grid = Bisection(20, 20) if search == "foolbox" else Grid()
        return MinimalEpsilon(made, rule, distance or "l2", return_early)
    tolerance = float(epsilon.max()) / 1000 if tolerance is None else tolerance
    if np.ndim(tolerance):
        raise InputError("tolerance must be one number, for all images")
    check_numbers(tolerance=tolerance)
    if not 0 < tolerance < epsilon.max():
        raise InputError(f"tolerance must lie between 0 and the attack's epsilon, but is {tolerance}")
    halvings = math.ceil(math.log2(float(epsilon.max()) / tolerance))
    return MinimalEpsilon(made, Bisection(1, halvings), distance, return_early)


def _made(attack: str | Mapping[str, Any] | Attack) -> Attack:
    """The attack itself; InputError if there is no ε to search for."""
    made = attack
    if isinstance(attack, str):
        made = REGISTRY.create(attack)
    elif isinstance(attack, Mapping):
        options = dict(attack)
        if not isinstance(options.get("name"), str):
            raise InputError(f"minimal_epsilon: attack must have a `name`, not {attack!r}")
        made = REGISTRY.create(options.pop("name"), **options)
    if not isinstance(made, Attack):
        raise InputError(
            "minimal_epsilon: attack must be the name of an attack on one image, a dictionary with a `name`, "
            f"or an attack like attacks.ifgsm(), not {attack!r}"
        )
    if made.minimal_norm or not hasattr(made, "epsilon"):
        named = attack if isinstance(attack, str) else type(made).__name__
        raise InputError(
            f"minimal_epsilon: {named} has no epsilon to search for; choose an attack within a ball, "
            "like ifgsm, pgd or apgd"
        )
    if is_traced(made.epsilon):
        raise InputError(
            "minimal_epsilon: the attack's epsilon decides how many runs there are, so it must be a number "
            "and not an array that JAX is tracing"
        )
    epsilon = np.asarray(made.epsilon)
    if not (epsilon > 0).all():
        raise InputError(f"minimal_epsilon: the attack's epsilon must be positive, but is {epsilon}")
    return made
