"""What all attacks share: the protocol, the registry, and the per-image loop."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from srdef.registry import Registry
from srdef.victims import Victim

REGISTRY = Registry("attack")


class Attack(Protocol):
    """A function of one victim and one image: a frozen pytree dataclass.

    The numbers that a sweep varies are its leaves, each a scalar (or, for `perturb`, an array with
    one value per image); what changes the program is static.

    The function is `result` of `init` followed by `step` until `finished`. It is written in these
    four parts so that `perturb` can run the loop on the host and drop the images that are done;
    `Iterative` puts them together again for one image.
    """

    @property
    def targeted(self) -> bool:
        """Whether the label is the class to reach instead of the class to leave."""
        ...

    @property
    def max_steps(self) -> int:
        """How many steps an image takes at most."""
        ...

    @property
    def stops_early(self) -> bool:
        """Whether an image may be finished before `max_steps`."""
        ...

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> Any:
        """The state, a pytree of arrays, from which the first step starts."""
        ...

    def step(self, victim: Victim, state: Any) -> Any:
        """The state after one more step."""
        ...

    def finished(self, state: Any) -> jax.Array:
        """Whether the image needs no more steps."""
        ...

    def result(self, state: Any) -> jax.Array:
        """The attacked image `(height, width, 3)`, in [0, 1] like the given one."""
        ...

    def __call__(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        """The attacked image `(height, width, 3)`, in [0, 1] like the given one."""
        ...

    def round(
        self, victim: Victim, image: jax.Array, attacked: jax.Array, label: jax.Array, key: jax.Array
    ) -> jax.Array:
        """The attacked image in multiples of 1/255, still within what the attack promises."""
        ...


class Iterative:
    """Mixin that makes an attack a function of one image, under any JAX transformation."""

    def __call__(self: Any, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> jax.Array:
        state = jax.lax.while_loop(
            lambda state: ~self.finished(state),
            lambda state: self.step(victim, state),
            self.init(victim, jnp.asarray(image), jnp.asarray(label), key),
        )
        return self.result(state)


def create(name: str, **options: Any) -> Attack:
    """Make the attack `name` from plain data; InputError lists the names or the options."""
    return REGISTRY.create(name, **options)


def list_names() -> list[str]:
    """The names that `create` knows."""
    return REGISTRY.names()


@struct.dataclass
class AttackResult:
    """What `perturb` returns, one row per image.

    Attributes
    ----------
    images : float32 array (N, height, width, 3)
        The attacked images, in [0, 1]; multiples of 1/255 when stored as uint8.
    success : bool array (N,)
        Whether the victim's prediction on exactly these images differs from the label (or equals
        it, for a targeted attack).
    linf, l2 : float32 arrays (N,)
        Distances between the attacked and the given images, in units of the [0, 1] range.
    steps : int32 array (N,)
        How many steps of the attack the image took; 0 from `round_result`.
    """

    images: Any
    success: Any
    linf: Any
    l2: Any
    steps: Any


def without_early_stop(attack: Attack) -> Attack:
    """The attack for a random victim: where it can go on after its first success, it does.

    With a random victim the first success may be one lucky draw.
    """
    return attack.replace(stop_early=False) if hasattr(attack, "stop_early") else attack  # type: ignore[attr-defined]


def is_adversarial(attack: Attack, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Whether logits `(classes,)` show what the attack aims at, given the label."""
    hit = jnp.argmax(logits) == label
    return hit if attack.targeted else ~hit


def max_other_logit(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The largest of the logits `(classes,)` but the label's."""
    return jnp.where(jnp.arange(logits.shape[0]) == label, -jnp.inf, logits).max()
