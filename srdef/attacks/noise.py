"""Random noise: what any attack within the same ball should beat."""

from dataclasses import replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.nearest import lead_to_undo
from srdef.attacks.projections import Norm, length, project, safe_divide
from srdef.validation import Scalar, check_choice, check_count, check_epsilon
from srdef.victims import Victim, expected

Kind = Literal["uniform", "gaussian"]


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    x: jax.Array
    lead: jax.Array  # of the label at x; infinite before the first try
    adversarial: jax.Array


@struct.dataclass
class Noise(Attack):
    """The best of several draws of noise from a ball.

    In L∞ uniform noise fills the ball; Gaussian noise has a standard deviation of ε / 2 and is cut off at ε.
    In L2 either is scaled to the length ε. The draw with the smallest lead of the label over the best other
    class is kept (targeted: of the best other class over the target). An image is finished when it is
    adversarial, unless `stop_early` is off.

    Parameters
    ----------
    epsilon : float
        Radius of the ball, in units of the [0, 1] range.
    tries : int
        Most draws for each image, each a prediction.
    kind : "uniform" or "gaussian"
    norm : "linf" or "l2"
    stop_early : bool
        Switch it off for random victims, where one lucky draw would end the attack.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("tries",)
    uses_gradients: ClassVar[bool] = False
    epsilon: Scalar
    tries: int = struct.field(pytree_node=False, default=100)
    kind: Kind = struct.field(pytree_node=False, default="uniform")
    norm: Norm = struct.field(pytree_node=False, default="linf")
    stop_early: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)

    @property
    def max_steps(self) -> int:
        return self.tries

    @property
    def stops_early(self) -> bool:
        return self.stop_early

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        # What is misclassified already stays as it is.
        already = is_adversarial(self, victim(image, jax.random.fold_in(key, 0)), label)
        lead = jnp.full((), jnp.inf, image.dtype)
        return State(image, label, key, jnp.int32(0), image, lead, self.stop_early & already)

    def step(self, victim: Victim, state: State) -> State:
        draw_key, query_key = jax.random.split(jax.random.fold_in(state.key, state.iteration + 1))
        noise = self._draw(state.image, draw_key)
        x = project(state.image, state.image + noise, self.epsilon, self.norm).astype(state.image.dtype)
        lead, logits = expected(
            victim, lambda z: (lead_to_undo(z, state.label, self.targeted), z), x, query_key
        )
        adversarial = self.stop_early & is_adversarial(self, logits, state.label)
        better = adversarial | (lead < state.lead)
        return state.replace(
            iteration=state.iteration + 1,
            x=jnp.where(better, x, state.x),
            lead=jnp.fmin(lead, state.lead),
            adversarial=adversarial,
        )

    def _draw(self, image: jax.Array, key: jax.Array) -> jax.Array:
        if self.kind == "uniform":
            noise = jax.random.uniform(key, image.shape, image.dtype, minval=-1, maxval=1)
        else:
            noise = jax.random.normal(key, image.shape, image.dtype) / 2
        if self.norm == "l2":
            noise = safe_divide(noise, length(noise, "l2"))
        return noise * self.epsilon

    def finished(self, state: State) -> jax.Array:
        return state.adversarial

    def result(self, state: State) -> jax.Array:
        return state.x


@REGISTRY.register("uniform_noise")
def uniform_noise(
    epsilon: Scalar = 8 / 255,
    *,
    tries: int = 100,
    norm: Norm = "linf",
    stop_early: bool = True,
    targeted: bool = False,
) -> Noise:
    """The best of 100 draws of uniform noise."""
    check_count("tries", tries)
    check_choice("norm", norm, ("linf", "l2"))
    check_epsilon(epsilon, norm)
    return Noise(epsilon, tries, "uniform", norm, stop_early, targeted)


@REGISTRY.register("gaussian_noise")
def gaussian_noise(
    epsilon: Scalar = 8 / 255,
    *,
    tries: int = 100,
    norm: Norm = "linf",
    stop_early: bool = True,
    targeted: bool = False,
) -> Noise:
    """The best of 100 draws of Gaussian noise."""
    uniform = uniform_noise(epsilon, tries=tries, norm=norm, stop_early=stop_early, targeted=targeted)
    return replace(uniform, kind="gaussian")
