"""Run an attack over a batch of images, each on its own: `perturb`.

Finished images leave the batch: whenever at most a quarter of it still needs steps, and many of them, the
others go on in a batch of a quarter of the size.
"""

# A quarter and not a half, because each size is a program of its own to compile. The host runs the loop over
# the steps: it has to see which images are finished, and it hears Ctrl-C.

import inspect
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, Sharding

from srdef import interrupts, validation
from srdef.attacks.arithmetic import (
    Arithmetic,
    check_arithmetic,
    computing_in,
    judging_in,
    misjudged,
    with_rows,
)
from srdef.attacks.base import Attack, AttackResult, reaches_aim, same_types, strong_types, within_range
from srdef.attacks.diagnostics import Diagnostics
from srdef.attacks.starts import with_start
from srdef.attacks.targets import TargetName, choose
from srdef.attacks.trace import Recorder
from srdef.batching import map_batches, on_each_device
from srdef.errors import InputError, SrdefWarning
from srdef.victims import Victim, canvas_side, check_victim

Storage = Literal["float32", "uint8"]
Images = np.ndarray | jax.Array


class Ensemble:
    """Several attacks that work on a batch one after the other: `perturb` hands it the whole batch."""

    perturb: Callable[..., Any]
    """What the function `perturb` does, with its parameters."""

    def repeat(self, n: int) -> Any:
        """Only for an attack on one image: InputError."""
        raise InputError(
            f"repeat is for an attack on one image; {type(self).__name__} runs several: repeat each of them"
        )


# By how much a batch shrinks at least when finished images leave it.
SHRINK = 4

# Where fewer steps are left, a smaller batch saves less time than it takes to compile its program. By the
# number of steps and not by a clock, as the size of a batch decides how sums are rounded. On a GPU compiling
# takes a few hundred times as long as a step of a large network, on a CPU a few times.
FEWEST_STEPS = {"cpu": 1, "others": 200}

# The draws with which a random victim is judged must be neither those that the attack has seen nor those
# with which a rounding was searched.
_JUDGE, _ROUND = 0xFFFFFFFF, 0xFFFFFFFE


def _image_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(ids)


def _keys_of(purpose: int, key: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.vmap(lambda k: jax.random.fold_in(k, purpose))(_image_keys(key, ids))


# In all programs below every leaf of `attack` has one row per image, and `sharding` says how a
# batch lies on the devices.


@partial(jax.jit, static_argnames="sharding")
def _init(
    attack: Attack,
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    start: jax.Array | None = None,
    *,
    sharding: Sharding,
) -> tuple[Any, jax.Array]:
    """The first state of every image, moved to its `start` if there is one, and which need no step."""

    def one(
        victim: Victim,
        attack: Attack,
        image: jax.Array,
        label: jax.Array,
        key: jax.Array,
        start: jax.Array | None,
    ) -> tuple[Any, jax.Array]:
        state = attack.init(victim, image, label, key)
        if start is not None:
            state = attack.start_at(victim, state, attack.into_ball(image, start))
        state = strong_types(state)
        return (state, jnp.int32(0)), attack.finished(state) | (attack.max_steps < 1)

    def states(victim: Victim, key: jax.Array, attack: Attack, *rows: Any) -> tuple[Any, jax.Array]:
        images, labels, ids, start = rows
        return jax.vmap(partial(one, victim))(attack, images, labels, _image_keys(key, ids), start)

    return on_each_device(states, sharding, (victim, key), (attack, images, labels, ids, start))


@partial(jax.jit, static_argnames=("looped", "sharding"))
def _steps(
    attack: Attack,
    victim: Victim,
    state: Any,
    needed: jax.Array,
    most: jax.Array,
    enough: jax.Array,
    *,
    looped: bool,
    sharding: Sharding,
) -> tuple[Any, jax.Array]:
    """Take steps with every image that is not finished; also return which images are finished then.

    Parameters
    ----------
    state : pytree
        The attack's own, and the number of steps taken.
    needed : bool array (N,)
        False for rows that fill the batch up.
    most : int array ()
        How many steps at most.
    enough : int array ()
        Come back earlier once no more than so many images need steps. (Each of several devices until none of
        its own does: they would have to ask each other after every step.)
    looped : bool
        Otherwise one step, whatever the other numbers are.
    """

    def one(victim: Victim, attack: Attack, counted: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        state, steps = counted
        finished = attack.finished(state) | (steps >= attack.max_steps)
        stepped = same_types(attack.step(victim, state), state), steps + 1
        counted = jax.tree.map(lambda old, new: jnp.where(finished, old, new), counted, stepped)
        return counted, attack.finished(counted[0]) | (counted[1] >= attack.max_steps)

    alone = len(sharding.device_set) == 1

    def steps(
        victim: Victim, most: jax.Array, enough: jax.Array, attack: Attack, state: Any, needed: jax.Array
    ) -> tuple[Any, jax.Array]:
        def go_on(carry: tuple[jax.Array, Any, jax.Array]) -> jax.Array:
            taken, _, finished = carry
            return (taken < most) & ((needed & ~finished).sum() > (enough if alone else 0))

        def step(carry: tuple[jax.Array, Any, jax.Array]) -> tuple[jax.Array, Any, jax.Array]:
            taken, state, _ = carry
            return taken + 1, *jax.vmap(partial(one, victim))(attack, state)

        carry = jnp.int32(0), state, jnp.zeros(needed.shape, bool)
        return (jax.lax.while_loop(go_on, step, carry) if looped else step(carry))[1:]

    return on_each_device(steps, sharding, (victim, most, enough), (attack, state, needed))


def _looped(attack: Attack, sharding: Sharding) -> bool:
    """Whether the device takes several steps before the host looks again.

    Not for gradients on a CPU, where XLA takes twice as long for those of most convolutions within a loop.
    """
    return _platform(sharding) != "cpu" or not attack.uses_gradients


def _platform(sharding: Sharding) -> str:
    device: Any = next(iter(sharding.device_set))
    return device.platform


@jax.jit
def _result(attack: Attack, state: Any, images: jax.Array) -> tuple[jax.Array, Diagnostics]:
    """The adversarial images, finite and in [0, 1], and what the attack has noted on its way."""

    def one(attack: Attack, state: Any, image: jax.Array) -> tuple[jax.Array, Diagnostics]:
        adversarial, finite = within_range(attack.result(state), image)
        diagnostics = getattr(state, "diagnostics", Diagnostics.create())
        return adversarial.astype(image.dtype), diagnostics.replace(nonfinite=diagnostics.nonfinite | ~finite)

    return jax.vmap(one)(attack, state, images)


@partial(jax.jit, static_argnames="sharding")
def _take(tree: Any, rows: jax.Array, *, sharding: Sharding) -> Any:
    """The given rows of every array."""
    return jax.lax.with_sharding_constraint(jax.tree.map(lambda array: array[rows], tree), sharding)


@jax.jit
def _put(tree: Any, rows: jax.Array, part: Any) -> Any:
    """`tree` with the given rows replaced; rows beyond its end are dropped."""
    return jax.tree.map(lambda array, new: array.at[rows].set(new, mode="drop"), tree, part)


@jax.jit
def _round(
    attack: Attack,
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    adversarial: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
) -> jax.Array:
    """The adversarial images in multiples of 1/255, as the attack rounds them."""
    return jax.vmap(lambda attack, *image: attack.round(victim, *image))(
        attack, images, adversarial, labels, _keys_of(_ROUND, key, ids)
    )


@partial(jax.jit, static_argnames=("targeted", "draws"))
def _judge(
    victim: Victim,
    key: jax.Array,
    images: jax.Array,
    adversarial: jax.Array,
    labels: jax.Array,
    ids: jax.Array,
    *,
    targeted: bool,
    draws: int,
) -> AttackResult:
    """Success and distances of adversarial images, without these images and the attack's norm.

    A program of its own: inside another a compiler may compute the images once more, rounded
    otherwise, and judge something else than what is returned. It does not know the attack, so that all
    attacks of a victim share it.
    """

    def one(image: jax.Array, adversarial: jax.Array, label: jax.Array, key: jax.Array) -> AttackResult:
        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits = victim(adversarial, key)
            return reaches_aim(targeted, logits, label), jnp.isnan(logits).any()

        if draws == 1:  # without the loop, in which XLA's CPU back end is slower
            fools, is_nan = draw(key)
        else:
            fools, is_nan = jax.lax.map(draw, jax.random.split(key, draws))
        rate = fools.astype(jnp.float32).mean()
        difference = adversarial - image
        return AttackResult(
            images=None,
            success=rate > 0.5,
            linf=jnp.abs(difference).max(),
            l2=jnp.linalg.norm(difference.ravel()),
            l1=jnp.abs(difference).sum(),
            l0=(difference != 0).sum().astype(jnp.int32),
            steps=jnp.int32(0),
            success_rate=rate,
            nonfinite=is_nan.any(),
            zero_gradient=jnp.bool_(False),
            norm="linf",
        )

    return jax.vmap(one)(images, adversarial, labels, _keys_of(_JUDGE, key, ids))


@jax.jit
def _is_nan(victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array) -> jax.Array:
    """Whether the victim's logits of each image `(N,)` are NaN."""
    return jnp.isnan(jax.vmap(victim)(images, _keys_of(_JUDGE, key, ids))).any(axis=-1)


@jax.jit
def _predict(victim: Victim, key: jax.Array, images: jax.Array, ids: jax.Array) -> jax.Array:
    """The victim's predictions `(N,)`."""
    logits = jax.vmap(victim)(images, _keys_of(_JUDGE, key, ids))
    return jnp.argmax(logits, axis=-1)


def _run_steps(
    attack: Attack,
    victim: Victim,
    state: Any,
    finished: jax.Array,
    sharding: Sharding,
    recorder: Recorder | None = None,
    arithmetic: Arithmetic | None = None,
) -> Any:
    """Step until all images of a batch are finished, in smaller batches as fewer of them are left.

    Parameters
    ----------
    attack, state : pytrees
        One row per image; `state` with the number of steps, as in `_steps`.
    finished : bool array (N,)
        Which images need no step.
    sharding : Sharding
        How a batch lies on the devices; its size stays a multiple of their number.
    recorder : Recorder, optional
        Looks at the state before the first step and after each.
    arithmetic
        Of the steps.

    Returns
    -------
    state : pytree
    """
    devices = len(sharding.device_set)
    looped = _looped(attack, sharding)
    # Asking which images are finished waits for the device, so long attacks ask less often.
    patience = 1 if looped else max(attack.max_steps // 1000, 1) if attack.stops_early else attack.max_steps
    fewest = FEWEST_STEPS.get(_platform(sharding), FEWEST_STEPS["others"])
    everything, batch = state, attack
    size = len(finished)
    rows = np.arange(size)  # where in `everything` the rows of `state` belong; `size` for padding
    pace = _Pace()
    if recorder is not None:
        recorder(batch, state, rows)
    while not (done := np.asarray(finished) | (rows == size)).all():
        left = np.flatnonzero(~done)
        taken = int(np.asarray(state[1])[left].max())
        shrinks = attack.max_steps - taken >= fewest
        smaller = len(rows) // SHRINK // devices * devices
        if shrinks and smaller > 0 and len(left) <= smaller:
            everything = _put(everything, rows, state)
            while len(left) <= smaller // SHRINK // devices * devices:
                smaller = smaller // SHRINK // devices * devices
            rows = np.append(rows[left], np.full(smaller - len(left), size))
            kept = np.minimum(rows, size - 1)
            state, batch = _take((everything, attack), kept, sharding=sharding)
            pace = _Pace()
        batch, needed = jax.device_put((batch, rows < size), sharding)
        enough = len(rows) // SHRINK // devices * devices if shrinks else 0
        for _ in range(patience):
            interrupts.check()
            # On one device XLA forgets the sharding; it is said again, or the steps were compiled once more.
            state = jax.device_put(state, sharding)
            with pace if looped else nullcontext(), computing_in(arithmetic):
                state, finished = _steps(
                    batch,
                    victim,
                    state,
                    needed,
                    pace.steps if recorder is None else 1,
                    enough,
                    looped=looped,
                    sharding=sharding,
                )
                if looped:
                    jax.block_until_ready(finished)
            if recorder is not None:
                recorder(batch, state, rows)
    return state if len(rows) == size else _put(everything, rows, state)


class _Pace:
    """How many steps the device takes until the host looks again: as many as it does in `SECONDS`.

    The first time is that of compilation and says nothing.
    """

    SECONDS = 0.1

    def __init__(self) -> None:
        self.steps = 1
        self._times: list[float] = []

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self._started
        self._times.append(spent / self.steps)
        if len(self._times) > 1:
            self.steps = max(1, min(int(self.SECONDS / max(min(self._times[1:]), 1e-6)), 10_000))


def smaller_batch(batch_size: int, left: int) -> int:
    """The smallest batch that holds `left` images, of the sizes to which `perturb` shrinks `batch_size`.

    For callers that attack fewer and fewer of the same images: no other sizes are compiled.
    """
    while batch_size // SHRINK >= left:
        batch_size //= SHRINK
    return batch_size


def perturb(
    attack: Attack | Ensemble,
    victim: Victim,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array | Literal["predicted"],
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    storage: Storage = "float32",
    draws: int = 1,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
    start: np.ndarray | jax.Array | None = None,
    trace: bool = False,
    targets: TargetName | None = None,
    arithmetic: Arithmetic | None = None,
    on_device: bool = False,
) -> AttackResult:
    """Attack every image of a batch on its own: vmapped, compiled once, sharded over the devices.

    Parameters
    ----------
    attack : Attack
        Its leaves may be scalars or arrays with one value per image (an array of ε, say); either
        way a sweep over their values compiles once.
    victim : Victim
        What is attacked.
    images : float array (N, height, width, 3)
        In [0, 1]; at most 1e-6 outside, which is clipped.
    labels : integer array (N,) or "predicted"
        The classes to leave; for a targeted attack the classes to reach. "predicted": leave the
        class that the victim itself sees in each image.
    key : jax.random.key
        The key of image i is `fold_in(key, ids[i])`, so a result depends neither on the batch nor
        on the order.
    ids : integer array (N,), optional
        What identifies each image; default `arange(N)`.
    batch_size : int, optional
        Default: all images at once.
    storage : "float32" or "uint8"
        Whether the adversarial images are returned as computed, or rounded to what an 8-bit file
        would hold (see `round_result`). Success and distances are those of exactly what is
        returned.
    draws : int
        Of a random victim, with which each adversarial image is judged: fresh ones, that the attack has not
        seen. An image is a success if it fools more than half of them.
    mesh : Mesh, optional
        The devices to use; default: all local ones.
    progress : callable, optional
        Called with the number of images done after each batch.
    start : float array (N, height, width, 3) or (height, width, 3), optional
        Where the attack starts in the place of the image, or of a random point: the first of several runs.
        Brought into the attack's ball and [0, 1]. Not for attacks that have no such point.
    trace : bool
        Whether the result has a `trace`: loss, margin and success before the first step and after each. It
        takes one prediction more for each step; the images are the same.
    targets : "least_likely", "random" or "second", optional
        For a targeted attack: the classes to reach, in the place of the labels, which are the images' own
        then. See `srdef.attacks.targets`.
    arithmetic : "float32", "tensorfloat32" or "bfloat16", optional
        What the steps compute products and convolutions in, by the words of `jax.default_matmul_precision`;
        all that the result holds is judged in float32 then. Images that only the lower precision took for
        adversarial are attacked once more in float32, by attacks that stop early or are of minimal norm.
        Default: everything as the program has it, `jax_default_matmul_precision`.
    on_device : bool
        Whether the adversarial images stay on the devices, as a JAX array, for what is computed there next;
        images that are a JAX array do not leave them either. Copying takes as long as some gradients.

    Returns
    -------
    AttackResult
        NumPy arrays; those of a single batch are read-only.

    Raises
    ------
    InputError
        For images, labels, ids, leaves of the attack or a key of the wrong kind, shape or range; for a victim
        that returns no logits, or NaN for one of the given images.

    Warns
    -----
    SrdefWarning
        If a gradient was not finite, or zero, for some images; see `AttackResult`.
    """
    validation.check_choice("storage", storage, get_args(Storage))
    validation.check_count("draws", draws)
    check_arithmetic(arithmetic)
    options: dict[str, Any]
    if isinstance(attack, Ensemble):
        options = {"key": key, "ids": ids, "batch_size": batch_size, "storage": storage, "mesh": mesh}
        others = {
            "draws": draws,
            "start": start,
            "trace": trace,
            "targets": targets,
            "arithmetic": arithmetic,
            "on_device": on_device,
        }
        for name, value in others.items():
            if value is inspect.signature(perturb).parameters[name].default:
                continue
            if name not in inspect.signature(attack.perturb).parameters:
                raise InputError(f"{name}: not of {type(attack).__name__}, only of each of its attacks")
            options[name] = value
        with judging_in(arithmetic):
            return attack.perturb(victim, images, labels, progress=progress, **options)
    with judging_in(arithmetic):
        images, ids, attack, classes = check_arguments(attack, victim, images, ids, key, on_device)
        options = {"batch_size": batch_size, "mesh": mesh}
        labels = check_labels(attack, victim, labels, images, key, ids, classes, options, targets)
        if start is not None:
            attack, start = with_start(attack, start, images)
        own: dict[str, Any] = {
            "storage": storage,
            "draws": draws,
            "trace": trace,
            "on_device": on_device,
        }
        result = _run(
            attack,
            victim,
            (images, labels, ids),
            key,
            start,
            {"progress": progress, **options},
            arithmetic=arithmetic,
            **own,
        )
        rows = misjudged(attack, result, arithmetic)
        if len(rows):
            part, first = jax.tree.map(lambda leaf: leaf[rows], (attack, start))
            size = smaller_batch(batch_size or len(images), len(rows))
            given = (images[rows], labels[rows], ids[rows])
            again = _run(part, victim, given, key, first, {**options, "batch_size": size}, **own)
            result = with_rows(result, rows, again)
        if result.nonfinite.any():
            _refuse_nan(victim, images, ids, key, options)
    warn(result, ids)
    return result


def _run(
    attack: Attack,
    victim: Victim,
    given: tuple[Images, np.ndarray, np.ndarray],
    key: jax.Array,
    start: np.ndarray | None,
    options: dict[str, Any],
    *,
    storage: Storage,
    draws: int,
    trace: bool,
    on_device: bool,
    arithmetic: Arithmetic | None = None,
) -> AttackResult:
    """What `perturb` does with checked arguments; `given` are images, labels and ids.

    Judged in the arithmetic of the surrounding context; `arithmetic` is that of the steps, if another.
    """
    recorder = Recorder(victim, key) if trace else None
    leaves, structure = jax.tree.flatten((attack, start))

    def batch(
        victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array, *rows: jax.Array
    ) -> AttackResult:
        attack, start = jax.tree.unflatten(structure, rows)
        if recorder is not None:
            recorder.start(images, labels, ids)
        sharding = images.sharding
        with computing_in(arithmetic):
            state, finished = _init(attack, victim, key, images, labels, ids, start, sharding=sharding)
        state, steps = _run_steps(attack, victim, state, finished, sharding, recorder, arithmetic)
        adversarial, diagnostics = _result(attack, state, images)
        if storage == "uint8":
            adversarial = _round(attack, victim, key, images, adversarial, labels, ids)
        if not on_device:
            adversarial.copy_to_host_async()  # while they are judged
        result = _judge(victim, key, images, adversarial, labels, ids, targeted=attack.targeted, draws=draws)
        return result.replace(
            images=adversarial,
            norm=attack.norm,
            steps=steps,
            nonfinite=result.nonfinite | diagnostics.nonfinite,
            zero_gradient=diagnostics.zero_gradient & ~result.success,
        )

    result = map_batches(batch, (victim, key), (*given, *leaves), on_device=on_device, **options)
    if on_device:  # all but the images
        result = jax.tree.map(np.asarray, result.replace(images=None)).replace(images=result.images)
    return result if recorder is None else result.replace(trace=recorder.trace(len(given[0])))


def check_labels(
    attack: Attack,
    victim: Victim,
    labels: Any,
    images: Images,
    key: jax.Array,
    ids: np.ndarray,
    classes: int,
    options: dict[str, Any],
    targets: TargetName | None = None,
) -> np.ndarray:
    """The labels `(N,)` as `perturb` takes them: given, predicted, or targets."""
    if isinstance(labels, str):
        validation.check_choice("labels", labels, ("predicted",))
        if attack.targeted and targets is None:
            raise InputError(
                'labels="predicted" gives a targeted attack no target; give the classes to reach'
            )
        labels = map_batches(_predict, (victim, key), (images, ids), **options)
    labels = validation.check_labels(labels, len(images), classes)
    if targets is None:
        return labels
    if not attack.targeted:
        raise InputError("targets are for targeted attacks: make it with targeted=True")
    return choose(
        targets, victim, images, labels, classes, key=key, ids=ids, batch_size=options["batch_size"]
    )


def judge(
    attack: Attack,
    victim: Victim,
    images: Images,
    adversarial: Images,
    labels: np.ndarray,
    key: jax.Array,
    ids: np.ndarray,
    draws: int,
    options: dict[str, Any],
    *,
    rounded: bool = False,
) -> AttackResult:
    """Success and distances of adversarial images, which are rounded to 8 bits first if `rounded`.

    Every leaf of `attack` has one row per image.
    """
    leaves, structure = jax.tree.flatten(attack)

    def batch(
        victim: Victim,
        key: jax.Array,
        images: jax.Array,
        adversarial: jax.Array,
        labels: jax.Array,
        ids: jax.Array,
        *rows: jax.Array,
    ) -> AttackResult:
        attack = jax.tree.unflatten(structure, rows)
        if rounded:
            adversarial = _round(attack, victim, key, images, adversarial, labels, ids)
        result = _judge(victim, key, images, adversarial, labels, ids, targeted=attack.targeted, draws=draws)
        return result.replace(images=adversarial, norm=attack.norm)

    return map_batches(batch, (victim, key), (images, adversarial, labels, ids, *leaves), **options)


def _refuse_nan(
    victim: Victim, images: Images, ids: np.ndarray, key: jax.Array, options: dict[str, Any]
) -> None:
    """InputError if the victim's logits of one of the given images are NaN: it has no class to leave."""
    is_nan = map_batches(_is_nan, (victim, key), (images, ids), **options)
    if is_nan.any():
        index = int(np.argmax(is_nan))
        raise InputError(
            f"the victim's logits of image {index} (id {ids[index]}) are NaN before any attack; "
            f"so are those of {int(is_nan.sum())} of {len(images)} images"
        )


def warn(result: AttackResult, ids: np.ndarray) -> None:
    """One warning for each sign that success rates of this call are too low."""
    words = {
        "nonfinite": "gradients or logits that are not finite (they counted as zero, and as no success)",
        "zero_gradient": "a gradient of exactly zero though they are not fooled: the victim may be less "
        "robust than it looks (try another loss, or replace the gradient)",
    }
    for name, meaning in words.items():
        flags = getattr(result, name)
        if flags.any():
            first = ", ".join(map(str, ids[flags][:5]))
            more = ", ..." if flags.sum() > 5 else ""
            text = f"{int(flags.sum())} of {len(flags)} images had {meaning}; ids {first}{more}"
            warnings.warn(text, SrdefWarning, stacklevel=3)


def round_result(
    attack: Attack | Ensemble,
    victim: Victim,
    images: np.ndarray | jax.Array,
    adversarial: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    key: jax.Array,
    ids: np.ndarray | None = None,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> AttackResult:
    """Round images that `perturb` has attacked to 8 bits, and judge them again.

    Attacks with a budget round within it. Minimal-norm attacks, whose perturbations often lie below
    half a level, are scaled up as little as makes the rounded image adversarial. The result is
    that of `perturb` with `storage="uint8"`, without attacking once more.

    Parameters
    ----------
    images : float array (N, height, width, 3)
        The images before the attack, themselves multiples of 1/255 if rounding shall add nothing
        to the perturbation.
    adversarial : float array (N, height, width, 3)
        As `perturb` returned them.
    attack, victim, labels, key, ids, batch_size, mesh, progress
        As given to `perturb`.

    Returns
    -------
    AttackResult
        NumPy arrays; the images are exactly `srdef.images.from_uint8` of their levels.

    Raises
    ------
    InputError
        As `perturb`.

    Warns
    -----
    SrdefWarning
        If the victim's logits are NaN for some of the rounded images.
    """
    if isinstance(attack, Ensemble):  # one attack that is repeated
        attack = getattr(attack, "attack", attack)
    images, ids, attack, classes = check_arguments(attack, victim, images, ids, key)
    adversarial = validation.check_images(adversarial)
    labels = validation.check_labels(labels, len(images), classes)
    options = {"batch_size": batch_size, "mesh": mesh, "progress": progress}
    result = judge(
        attack, victim, images, adversarial, labels, key, ids, draws=1, options=options, rounded=True
    )
    warn(result, ids)
    return result


def check_arguments(
    attack: Any, victim: Victim, images: Any, ids: Any, key: Any, on_device: bool = False
) -> tuple[Any, np.ndarray, Attack, int]:
    """Images and ids as they shall be, the attack with one row per image in every leaf, and the classes."""
    if not isinstance(attack, Attack):
        raise InputError(f"attack must be an attack like attacks.fgsm(), not {attack!r}")
    images = validation.check_images(images, on_device=on_device)
    validation.check_key(key)
    classes = check_victim(victim, images.shape[1:])
    if getattr(attack, "enlarges", False):  # as DiverseInputs does
        height, width, channels = images.shape[1:]
        check_victim(victim, (canvas_side(height), canvas_side(width), channels))
    count = len(images)

    def rows(path: Any, leaf: Any) -> np.ndarray:
        if path and getattr(path[-1], "name", "") == "start":  # an image and no number
            return validation.one_start_per_image(leaf, images)
        return validation.one_row_per_image(leaf, count)

    attack = jax.tree_util.tree_map_with_path(rows, attack)
    return images, validation.check_ids(ids, count), attack, classes
