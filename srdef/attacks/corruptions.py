"""Less contrast, blur, salt and pepper: baselines that know nothing of the victim but its predictions.

Each grows a corruption until the image is adversarial, as foolbox (Rauber et al. 2020, JOSS 5(53) 2607) does
in `LinearSearchContrastReductionAttack`, `GaussianBlurAttack` and `SaltAndPepperNoiseAttack`.
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from srdef.attacks.base import REGISTRY, Attack, is_adversarial
from srdef.attacks.nearest import Nearest
from srdef.attacks.projections import Norm, length
from srdef.validation import Scalar, check_count, check_numbers, check_shares
from srdef.victims import Victim

# In standard deviations: where the kernel of a blur ends, as in SciPy.
_TRUNCATE = 4


class State(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    x: jax.Array  # the image itself until the corrupted one is adversarial
    done: jax.Array


class Growing(Attack):
    """A corruption that grows in equal steps; the first adversarial image is the result.

    An image for which there is none stays as it is; so does one that is misclassified already.
    """

    @abstractmethod
    def corrupted(self, image: jax.Array, share: jax.Array) -> jax.Array:
        """Return the image with so much of the largest corruption; 1 is all of it."""

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> State:
        already = is_adversarial(self, victim(image, jax.random.fold_in(key, 0)), label)
        return State(image, label, key, jnp.int32(0), image, already)

    def step(self, victim: Victim, state: State) -> State:
        iteration = state.iteration + 1
        x = jnp.clip(self.corrupted(state.image, iteration / self.steps), 0, 1).astype(state.image.dtype)
        logits = victim(x, jax.random.fold_in(state.key, iteration))
        done = is_adversarial(self, logits, state.label)
        return state.replace(iteration=iteration, x=jnp.where(done, x, state.x), done=done)

    def finished(self, state: State) -> jax.Array:
        return state.done

    def result(self, state: State) -> jax.Array:
        return state.x


@struct.dataclass
class ContrastReduction(Growing):
    """Move every value towards a grey level, all by the same share of the way.

    Parameters
    ----------
    level : float
        The grey level, in [0, 1].
    steps : int
        Shares that are tried, each a prediction.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    uses_gradients: ClassVar[bool] = False
    level: Scalar = 0.5
    steps: int = struct.field(pytree_node=False, default=1000)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l2")

    def corrupted(self, image: jax.Array, share: jax.Array) -> jax.Array:
        return image + share * (self.level - image)


@struct.dataclass
class GaussianBlur(Growing):
    """Blur with a Gaussian whose standard deviation grows.

    The kernel ends at four standard deviations, and the image is mirrored beyond its edges.

    Parameters
    ----------
    max_sigma : float, optional
        The largest standard deviation, in pixels; default: the longer side of the image.
    steps : int
        Standard deviations that are tried, each a prediction.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    max_sigma: Scalar | None = None
    steps: int = struct.field(pytree_node=False, default=1000)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l2")

    def corrupted(self, image: jax.Array, share: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        longest = max(height, width) if self.max_sigma is None else self.max_sigma
        # Beyond the longer side a kernel only adds more mirror images of the same; without any it is a point.
        largest = max(height, width)
        sigma = jnp.clip(share * longest, 1e-6, largest)
        rows, columns = (_blur_matrix(side, sigma, largest) for side in (height, width))
        return jnp.einsum("iy,yxc,jx->ijc", rows, image, columns, precision="highest")


def _blur_matrix(side: int, sigma: jax.Array, largest: int) -> jax.Array:
    """What each of `side` values in a row gives to each blurred one, `(side, side)`.

    Parameters
    ----------
    sigma : array ()
    largest : int
        At most which `sigma` is: how many mirror images have to be looked at.
    """
    copies = -(-(_TRUNCATE * largest + 1) // (2 * side)) + 1
    to = jnp.arange(side)[:, None, None]
    source = jnp.arange(side)[None, :, None]
    period = 2 * side * jnp.arange(-copies, copies + 1)[None, None]
    # Value s of the row stands at s and at -1 - s, and again after every two sides.
    distances = jnp.stack([period + source - to, period - 1 - source - to])
    reach = jnp.floor(_TRUNCATE * sigma + 0.5)
    weights = jnp.where(jnp.abs(distances) <= reach, jnp.exp(-0.5 * (distances / sigma) ** 2), 0)
    matrix = weights.sum(axis=(0, 3))
    return matrix / matrix.sum(axis=1, keepdims=True)


class SaltState(struct.PyTreeNode):
    """The loop's state of one image."""

    image: jax.Array
    label: jax.Array
    key: jax.Array
    iteration: jax.Array
    share: jax.Array  # of the pixels that are tried next
    low: jax.Array
    high: jax.Array
    step_size: jax.Array  # of the share
    nearest: Nearest


@struct.dataclass
class SaltAndPepper(Attack):
    """Make a growing share of the pixels black or white, and go back to fewer once that is adversarial.

    Every step draws the pixels afresh. After a success with share p the search goes on between p / 2 and 1.2
    p in as many steps as are left. The result is the adversarial image that is nearest in L2; the image
    itself if there is none, or if it is misclassified as it is.

    Parameters
    ----------
    steps : int
        Images that are tried, each a prediction.
    across_channels : bool
        Whether a pixel is black or white, or each of its values 0 or 1 alone.
    targeted : bool
        Whether labels are the classes to reach.
    """

    counts: ClassVar = ("steps",)
    uses_gradients: ClassVar[bool] = False
    steps: int = struct.field(pytree_node=False, default=1000)
    across_channels: bool = struct.field(pytree_node=False, default=True)
    targeted: bool = struct.field(pytree_node=False, default=False)
    norm: Norm = struct.field(pytree_node=False, default="l2")

    def init(self, victim: Victim, image: jax.Array, label: jax.Array, key: jax.Array) -> SaltState:
        already = is_adversarial(self, victim(image, jax.random.fold_in(key, 0)), label)
        zero = jnp.zeros((), image.dtype)
        size = jnp.full((), 1 / self.steps, image.dtype)
        return SaltState(
            image,
            label,
            key,
            iteration=jnp.int32(0),
            share=size,
            low=zero,
            high=jnp.ones_like(zero),
            step_size=size,
            nearest=Nearest.create(image).update(image, zero, already),
        )

    def step(self, victim: Victim, state: SaltState) -> SaltState:
        draw_key, query_key = jax.random.split(jax.random.fold_in(state.key, state.iteration + 1))
        shape = (*state.image.shape[:2], 1) if self.across_channels else state.image.shape
        drawn = jax.random.uniform(draw_key, shape, state.image.dtype)
        pepper, salt = drawn < state.share / 2, drawn >= 1 - state.share / 2
        x = jnp.where(salt, 1, jnp.where(pepper, 0, state.image))
        adversarial = is_adversarial(self, victim(x, query_key), state.label)
        nearest = state.nearest.update(x, length(x - state.image, "l2"), adversarial)

        better = nearest.distance < state.nearest.distance
        low = jnp.where(better, state.share / 2, state.low)
        # A little above, as a larger share is not always a larger perturbation.
        high = jnp.where(better, jnp.minimum(1.2 * state.share, 1), state.high)
        size = jnp.where(better, (high - low) / (self.steps - state.iteration), state.step_size)
        start = jnp.where(better | (state.share == high), low, state.share)
        return state.replace(
            iteration=state.iteration + 1,
            share=jnp.minimum(start + size, high),
            low=low,
            high=high,
            step_size=size,
            nearest=nearest,
        )

    def finished(self, state: SaltState) -> jax.Array:
        return state.nearest.at_start

    def result(self, state: SaltState) -> jax.Array:
        return state.nearest.image


@REGISTRY.register("contrast_reduction")
def contrast_reduction(
    *, level: Scalar = 0.5, steps: int = 1000, targeted: bool = False
) -> ContrastReduction:
    """The least loss of contrast, to within a thousandth, that is adversarial."""
    check_shares(level=level)
    check_count("steps", steps)
    return ContrastReduction(level, steps, targeted)


@REGISTRY.register("gaussian_blur")
def gaussian_blur(
    *, max_sigma: Scalar | None = None, steps: int = 1000, targeted: bool = False
) -> GaussianBlur:
    """The least blur, to within a thousandth of the image's side, that is adversarial."""
    if max_sigma is not None:
        check_numbers(max_sigma=max_sigma)
    check_count("steps", steps)
    return GaussianBlur(max_sigma, steps, targeted)


@REGISTRY.register("salt_and_pepper")
def salt_and_pepper(
    *, steps: int = 1000, across_channels: bool = True, targeted: bool = False
) -> SaltAndPepper:
    """Salt and pepper noise on as few pixels as 1000 predictions find."""
    check_count("steps", steps)
    return SaltAndPepper(steps, across_channels, targeted)
