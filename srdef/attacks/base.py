"""What all attacks share: the base class, the registry, and what counts as adversarial."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from srdef.attacks import rounding
from srdef.attacks.aliases import ALIASES
from srdef.attacks.projections import AnyNorm, project
from srdef.attacks.states import same_types, strong_types
from srdef.keys import check_key
from srdef.registry import Registry
from srdef.validation import Scalar
from srdef.victims import Victim

if TYPE_CHECKING:
    from srdef.attacks.repeat import Repeated

REGISTRY = Registry("attack", ALIASES)

# The starts of later runs draw from `fold_in(key, RESTART)`; smaller numbers are those of iterations.
RESTART = 0xFFFFFFF0
# A look at the image, or at a start, before the first step draws from `fold_in(key, START)`.
START = 0xFFFFFFEF


class Attack(ABC):
    """A function of one victim and one image: the base class of all attacks.

    An attack is a frozen pytree dataclass (`flax.struct.dataclass`). The numbers that a sweep varies are its
    leaves, each a scalar (or, for `perturb`, an array with one value per image); what changes the program is
    static. It has to define `init`, `step`, `result` and `steps`; everything else has a default. It is made
    of these parts so that `perturb` can run the loop on the host and drop the images that are finished;
    calling the attack runs the loop for one image, under any JAX transformation.

    Attributes
    ----------
    steps : int
        The largest number of steps for an image.
    targeted : bool
        Whether the label is the class to reach instead of the class to leave.
    norm : "linf", "l2", "l1" or "l0"
        The norm of the ball that the perturbation stays in, if the attack has an `epsilon`.
    counts : tuple of str
        Of this very class: the static whole numbers that `perturb` may trace, as its code makes no decision
        in Python on them, and attacks of which it may trace theirs. All their values share a program then.
    uses_gradients : bool
        False for an attack of logits or predictions: `perturb` runs its many short steps in a compiled loop.
    """

    steps: int
    targeted: bool = False
    counts: ClassVar[tuple[str, ...]] = ()
    uses_gradients: ClassVar[bool] = True
    norm: AnyNorm = "linf"

    @abstractmethod
    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> Any:
        """Return the state, a pytree of arrays, from which the first step starts.

        Parameters
        ----------
        victim : Victim
        image : array (height, width, 3)
            In [0, 1].
        label : integer array ()
        key : jax.random.key
            The image's own.
        """

    @abstractmethod
    def step(self, victim: Victim, state: Any) -> Any:
        """Return the state after one more step, with the same shapes and types."""

    @abstractmethod
    def result(self, state: Any) -> jax.Array:
        """Return the adversarial image `(height, width, 3)`, in [0, 1] like the given one."""

    def current(self, state: Any) -> jax.Array:
        """The image that the attack is at, for a trace: the `x` of the state, else the result."""
        x = state.get("x") if isinstance(state, dict) else getattr(state, "x", None)
        return self.result(state) if x is None else x

    def start_at(self, victim: Victim, state: Any, start: jax.Array) -> Any:
        """Return the state of `init` moved to another initial point `start`, within ball and range.

        Override it in an attack that has an initial point.
        """
        raise NotImplementedError

    def into_ball(self, image: jax.Array, x: jax.Array) -> jax.Array:
        """The point of the attack's ball and of [0, 1] that is nearest to `x`."""
        if self.minimal_norm:
            return jnp.clip(x, 0, 1)
        epsilon: Scalar = self.epsilon  # type: ignore[attr-defined]
        return project(image, x, epsilon, self.norm).astype(image.dtype)  # type: ignore[arg-type]

    def finished(self, state: Any) -> jax.Array:
        """Whether the image needs no more steps; by default only the number of steps decides."""
        return jnp.bool_(False)

    @property
    def max_steps(self) -> int:
        """The largest number of steps for an image: `steps`, if an attack does not say otherwise."""
        return self.steps

    @property
    def stops_early(self) -> bool:
        """Whether an image may be finished before `max_steps`: whether `finished` is overridden."""
        return type(self).finished is not Attack.finished

    @property
    def minimal_norm(self) -> bool:
        """Whether the attack looks for the smallest perturbation: whether it has no `epsilon`."""
        return not hasattr(self, "epsilon")

    def __call__(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        """Attack one image.

        Parameters
        ----------
        victim, image, label, key
            As for `init`.

        Returns
        -------
        array (height, width, 3)
            The adversarial image, in [0, 1].

        Raises
        ------
        InputError
            If `key` is not one typed key.
        """

        def unfinished(counted: tuple[Any, jax.Array]) -> jax.Array:
            state, steps = counted
            return (steps < self.max_steps) & ~self.finished(state)

        def step(counted: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
            state, steps = counted
            return same_types(self.step(victim, state), state), steps + 1

        state = strong_types(self.init(victim, jnp.asarray(image), jnp.asarray(label), check_key(key)))
        state, _ = jax.lax.while_loop(unfinished, step, (state, jnp.int32(0)))
        return within_range(self.result(state), image)[0]

    def repeat(self, n: int) -> "Repeated":
        """The attack `n` times, of which `perturb` keeps the best: see `srdef.attacks.repeat`."""
        from srdef.attacks.repeat import repeat

        return repeat(self, n)

    def round(
        self, victim: Victim, image: jax.Array, adversarial: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        """Round an adversarial image to multiples of 1/255, still within what the attack promises.

        With an `epsilon` the result stays in the ball. The perturbation of a minimal-norm attack, which
        rounding would often undo, is scaled up as little as keeps the image adversarial.

        Parameters
        ----------
        image, adversarial : arrays (height, width, 3)
            The given image, and what the attack has made of it.
        victim, label, key
            As for `init`; the key is not one that the attack has seen.
        """
        if self.minimal_norm:
            return rounding.smallest_surviving(
                image, adversarial, lambda x: is_adversarial(self, victim(x, key), label)
            )
        epsilon: Scalar = self.epsilon  # type: ignore[attr-defined]
        return rounding.WITHIN[self.norm](image, adversarial, epsilon)


def create(name: str, **options: Any) -> Attack:
    """Make the attack `name`, or that of an alias, from plain data; InputError lists the names or options."""
    return REGISTRY.create(name, **options)


def list_names() -> list[str]:
    """The names that `create` knows."""
    return REGISTRY.names()


@struct.dataclass(kw_only=True)
class AttackResult:
    """What `perturb` returns, one row per image.

    Attributes
    ----------
    images : float32 array (N, height, width, 3)
        The adversarial images, in [0, 1]; multiples of 1/255 when stored as uint8.
    success : bool array (N,)
        Whether the victim's prediction on exactly these images differs from the label (targeted: equals it).
    linf, l2, l1 : float32 arrays (N,)
        Distances between the adversarial and the given images, in units of the [0, 1] range.
    l0 : int32 array (N,)
        The number of values that differ, of height x width x channels; Sparse-RS counts pixels instead.
    steps : int32 array (N,)
        The number of steps that the attack took for the image; 0 from `round_result`.
    success_rate : float32 array (N,)
        The share of fresh draws of a random victim that it fools, of which `success` wants more than half.
    nonfinite : bool array (N,)
        Whether a gradient on the way was NaN or infinite (it counted as zero), or logits on the way or for
        the adversarial image were NaN (no success then).
    zero_gradient : bool array (N,)
        Whether a gradient was exactly zero while the image was not adversarial: the victim looks more
        robust than it is. Known of attacks that keep `Diagnostics`.
    probabilities : bool array (N,), optional
        Whether the victim's logits for the adversarial image are probabilities. Not of AutoAttack.
    norm : "linf", "l2", "l1" or "l0"
        The attack's own.
    trace : Trace, optional
        Loss, margin and success after every step, if `perturb` was asked for it.
    """

    images: Any
    success: Any
    linf: Any
    l2: Any
    l1: Any
    l0: Any
    steps: Any
    success_rate: Any
    nonfinite: Any
    zero_gradient: Any
    norm: AnyNorm = struct.field(pytree_node=False)
    trace: Any = None
    probabilities: Any = None

    def __repr__(self) -> str:
        if not isinstance(self.success, np.ndarray):
            return f"AttackResult({type(self.success).__name__})"
        fooled = self.success
        words = [f"{len(fooled)} images", f"{int(fooled.sum())} fooled"]
        if fooled.any():
            names = {"linf": "L∞", "l2": "L2"} | {x: x.upper() for x in ("l1", "l0") if x == self.norm}
            medians = [f"{name} {np.median(getattr(self, norm)[fooled]):.3g}" for norm, name in names.items()]
            words.append(f"median {', '.join(medians)}")
        for name in ("nonfinite", "zero_gradient"):
            if getattr(self, name).any():
                words.append(f"{name} {int(getattr(self, name).sum())}")
        return f"AttackResult({'; '.join(words)})"


def within_range(adversarial: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An adversarial image in [0, 1], and whether it was finite; if not, the image itself."""
    finite = jnp.isfinite(adversarial).all()
    # Rounding may leave [0, 1] by an ulp.
    return jnp.clip(jnp.where(finite, adversarial, image), 0, 1).astype(adversarial.dtype), finite


def without_early_stop(attack: Attack) -> Attack:
    """The attack for a random victim: where it can go on after its first success, it does.

    With a random victim the first success may be one lucky draw.
    """
    flags = [name for name in ("stop_early", "return_early") if hasattr(attack, name)]
    changes: dict[str, Any] = dict.fromkeys(flags, False)
    if isinstance(inner := getattr(attack, "attack", None), Attack):
        changes["attack"] = without_early_stop(inner)
    return attack.replace(**changes) if changes else attack  # type: ignore[attr-defined]


def is_adversarial(attack: Attack, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether logits `(classes,)` show what the attack aims at, given the label."""
    return reaches_aim(attack.targeted, logits, label)


def reaches_aim(targeted: bool, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether the label is predicted if that is the aim, or else whether it is not."""
    hit = jnp.argmax(logits) == label
    # NaN is no answer, so it fools nobody.
    return (hit if targeted else ~hit) & ~jnp.isnan(logits).any()
