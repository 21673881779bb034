"""What a defense is, and the ways to combine and to apply defenses."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from srdef.batching import map_batches
from srdef.errors import InputError
from srdef.keys import check_key
from srdef.programs import jit
from srdef.registry import Registry
from srdef.validation import check_flags, check_ids, check_images, check_not_traced

REGISTRY = Registry("defense")


Builder = TypeVar("Builder", bound=Callable[..., Any])


def needs_classifier(builder: Builder) -> Builder:
    """Declare that a defense has an option `classifier`, which an experiment fills with its own.

    A class may say so itself: `needs_classifier: ClassVar[bool] = True`.
    """
    builder.needs_classifier = True  # type: ignore[attr-defined]
    return builder


@runtime_checkable
class Defense(Protocol):
    """A transformation of one image that stands before a classifier.

    Defenses are frozen pytree dataclasses. Numbers that a sweep varies are leaves, so that a sweep
    compiles once; what changes the program (a wavelet's name, a number of steps) is static.
    """

    @property
    def random(self) -> bool:
        """Whether the result depends on the key."""
        ...

    @property
    def differentiable(self) -> bool:
        """Whether the gradient through it is useful; if not, an adaptive attack needs a surrogate."""
        ...

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Defend one image, float32 (H, W, channels) in [0, 1]; the result may have another size."""
        ...


def check_defense(defense: Any) -> None:
    """InputError for what is no defense: a name, options or a list, which configurations have in its place.

    And for a function, an object that is no pytree, or one that does not say whether it is random.
    """
    check_not_a_name(defense)
    if not callable(defense) or inspect.isroutine(defense):
        raise InputError(f"{_LIKE}, not {defense!r:.80}")
    if jax.tree_util.all_leaves([defense]):
        raise InputError(
            f"{type(defense).__name__} is no pytree, as a defense has to be: make it a flax.struct.dataclass"
        )
    _check_says(defense)


def _check_says(defense: Any) -> None:
    """InputError if a defense, or one of a sequence, does not say what the protocol wants to know of it."""
    if isinstance(defense, Sequential):
        for step in defense.defenses:
            _check_says(step)
        return
    for name in ("random", "differentiable"):
        value = getattr(defense, name, None)
        if value is None or callable(value):  # a method is true, whatever it would return
            raise InputError(
                f"{type(defense).__name__} has {'no' if value is None else 'a method for its'} attribute "
                f"`{name}`, which a defense needs: write `{name}: ClassVar[bool] = True` (or False), or make "
                "it a property"
            )


_LIKE = "a defense must be one like defenses.create('jpeg'), or defenses.Sequential of several"


def check_not_a_name(*defenses: Any) -> None:
    """InputError for what is neither a defense nor what JAX puts in the place of one in a tree."""
    for defense in defenses:
        if isinstance(defense, str | Mapping | list | type):
            raise InputError(f"{_LIKE}, not {defense!r:.80}")


@REGISTRY.register("identity")
@flax.struct.dataclass
class Identity:
    """No defense: the image itself. Deterministic, differentiable (no surrogate needed), same size."""

    random: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Return `image`."""
        return image


@flax.struct.dataclass
class Sequential:
    """Defenses one after another; the one at position i gets the key `fold_in(key, i)`.

    Random if one of them is, differentiable if all of them are.

    Parameters
    ----------
    defenses : sequence of Defense
        An empty one is the identity.

    Raises
    ------
    InputError
        For a single defense, and for names of defenses.
    """

    defenses: tuple[Defense, ...]

    def __post_init__(self) -> None:
        if isinstance(self.defenses, list):
            object.__setattr__(self, "defenses", tuple(self.defenses))
        if callable(self.defenses):
            raise InputError("defenses.Sequential takes a list of defenses, not one")
        check_not_a_name(*(self.defenses if isinstance(self.defenses, tuple) else [self.defenses]))

    @property
    def random(self) -> bool:
        """Whether one of the defenses is random."""
        return any(defense.random for defense in self.defenses)

    @property
    def differentiable(self) -> bool:
        """Whether all of the defenses are differentiable."""
        return all(defense.differentiable for defense in self.defenses)

    def __call__(self, image: jax.Array, key: jax.Array) -> jax.Array:
        """Defend one image, (H, W, 3) in [0, 1]; the size is what the last defense makes it."""
        for position, defense in enumerate(self.defenses):
            image = defense(image, jax.random.fold_in(key, position))
        return image


def defend_batch(defense: Defense, images: jax.Array, keys: jax.Array) -> jax.Array:
    """Defend a batch inside a jitted function: image i with key i.

    What vmap gives; but on a CPU a defense with `one_by_one` takes one image after the other, so that
    what it computes on the way stays in the cache.

    Parameters
    ----------
    defense : Defense
    images : array (N, H, W, 3)
    keys : JAX random keys (N,)
    """
    if isinstance(defense, Sequential):
        for position, step in enumerate(defense.defenses):
            images = defend_batch(
                step, images, jax.vmap(lambda key, i=position: jax.random.fold_in(key, i))(keys)
            )
        return images
    # A loop over the images would gather a batch that is spread over several devices.
    alone = jax.default_backend() == "cpu" and jax.device_count() == 1
    if alone and getattr(defense, "one_by_one", False):
        return jax.lax.map(lambda pair: defense(*pair), (images, keys))
    return jax.vmap(defense)(images, keys)


@jit
def _defend_batch(defense: Defense, key: jax.Array, images: jax.Array, ids: jax.Array) -> jax.Array:
    defended = defend_batch(defense, images, jax.vmap(lambda i: jax.random.fold_in(key, i))(ids))
    # A classifier may be asked about what overshoots a little, but it is no image.
    return jnp.clip(defended.astype(jnp.float32), 0, 1)


def apply(
    defense: Defense,
    images: jax.Array | np.ndarray,
    *,
    key: jax.Array,
    ids: jax.Array | np.ndarray | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    mesh: Mesh | None = None,
    on_device: bool = False,
) -> Any:
    """Defend many images: vmapped, jitted, sharded over the devices of `mesh`.

    Image i gets the key `fold_in(key, ids[i])`, so its result depends neither on the batch, nor
    on the order, nor on the number of devices.

    Parameters
    ----------
    defense : Defense
    images : array (N, H, W, channels)
        Floats in [0, 1], as `srdef.attacks.perturb` takes and gives them. Quilting, and what converts
        colours, takes RGB images only, or also gray ones.
    key : JAX random key
    ids : integer array (N,), optional
        Default: 0, 1, ..., N - 1.
    batch_size, progress, mesh
        As in `srdef.batching.map_batches`.
    on_device : bool
        Whether all defended images stay on the devices, for a classifier there; images that are a JAX array
        do not leave them either. Otherwise those of a batch
        are copied to the host while the next one is computed, and no more than these two are on the devices.

    Returns
    -------
    numpy or jax array (N, H', W', channels)
        float32, clipped to [0, 1]; a NumPy array of a single batch is read-only.

    Raises
    ------
    InputError
        If the defense is none or has a network in training mode, the images have another shape, type or
        range, if there are none, if there are not as many ids as images, or the key is not one of
        `jax.random.key`.
    """
    check_not_traced(
        "defenses.apply", "the defense itself on one image, defense(image, key)", defense, images, key, ids
    )
    from srdef.models.frameworks import check_networks  # here, so that defenses load no model code

    check_defense(defense)
    check_networks(defense)
    check_flags(on_device=on_device)
    images = check_images(images, on_device=on_device)
    key = check_key(key)
    return map_batches(
        _defend_batch,
        (defense, key),
        (images, check_ids(ids, len(images))),
        batch_size=batch_size,
        mesh=mesh,
        progress=progress,
        on_device=on_device,
    )
