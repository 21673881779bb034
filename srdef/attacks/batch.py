"""Run an attack over a batch of images, each on its own: `perturb`."""

import inspect
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax.sharding import Mesh

from srdef import validation
from srdef.attacks import programs
from srdef.attacks.arguments import Images, check_arguments, check_labels
from srdef.attacks.arithmetic import (
    Arithmetic,
    check_arithmetic,
    computing_in,
    judging_in,
    misjudged,
    with_rows,
)
from srdef.attacks.base import Attack, AttackResult
from srdef.attacks.counts import AttackRows
from srdef.attacks.ensemble import Ensemble
from srdef.attacks.judging import refuse_nan, warn
from srdef.attacks.starts import with_start
from srdef.attacks.stepping import run_steps, smaller_batch
from srdef.attacks.targets import TargetName
from srdef.attacks.trace import Recorder
from srdef.batching import map_batches, settled_batch_size
from srdef.errors import InputError
from srdef.own_code.edits import watched
from srdef.victims import Victim

Storage = Literal["float32", "uint8"]


@watched
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
        Images at a time. Default: all of few, and batches of several dozen or hundred of many (see
        `srdef.batching.settled_batch_size`).
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
        all that the result holds is judged in float32 then. Images that are no success in float32 are
        attacked once more, in float32, by attacks that are of minimal norm or have stopped early: only the
        lower precision may have taken them for adversarial.
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
        If a gradient was not finite, or zero, for some images, or the victim's outputs are probabilities; see
        `AttackResult`.
    """
    validation.check_not_traced(
        "perturb", validation.ONE_IMAGE, attack, victim, images, labels, key, ids, start
    )
    validation.check_choice("storage", storage, get_args(Storage))
    validation.check_count("draws", draws)
    validation.check_flags(trace=trace, on_device=on_device)
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
        images, ids, key, attack, classes = check_arguments(attack, victim, images, ids, key, on_device)
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
            size = settled_batch_size(batch_size, len(images), images.shape[1:], mesh)
            size = smaller_batch(size, len(rows))
            given = (images[rows], labels[rows], ids[rows])
            again = _run(part, victim, given, key, first, {**options, "batch_size": size}, **own)
            result = with_rows(result, rows, again)
        if result.nonfinite.any():
            refuse_nan(victim, images, ids, key, options)
    warn(attack, result, ids)
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
    leaves, structure = jax.tree.flatten((AttackRows.create(attack, len(given[0])), start))

    def batch(
        victim: Victim, key: jax.Array, images: jax.Array, labels: jax.Array, ids: jax.Array, *rows: jax.Array
    ) -> AttackResult:
        every, start = jax.tree.unflatten(structure, rows)
        if recorder is not None:
            recorder.start(images, labels, ids)
        sharding = images.sharding
        with computing_in(arithmetic):
            state, finished = programs.init(every, victim, key, images, labels, ids, start, sharding=sharding)
        state, steps = run_steps(attack, every, victim, state, finished, sharding, recorder, arithmetic)
        adversarial, diagnostics = programs.result(every, state, images)
        if storage == "uint8":
            adversarial = programs.rounded(every, victim, key, images, adversarial, labels, ids)
        if not on_device:
            adversarial.copy_to_host_async()  # while they are judged
        result = programs.judged(
            victim, key, images, adversarial, labels, ids, targeted=attack.targeted, draws=draws
        )
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
