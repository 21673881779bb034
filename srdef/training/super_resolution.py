"""Training a super-resolution network on high-resolution images alone.

The recipe is EDSR's (Lim et al., 2017, section 4): patches of 48x48 low-resolution pixels, L1 loss (or
the squared error of SRResNet), Adam, flips and quarter turns. The low-resolution patch is made on the
device by the antialiased bicubic of the literature and rounded to 8 bits. Batch `step` is a function
of the seed and `step` alone, so a run that was killed continues as if it had not been. The batch is
spread over all devices, those of all processes if `jax.distributed` was initialized; every device has all
weights, and all photographs.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from srdef import batching, interrupts, memory, models
from srdef.errors import InputError, warn
from srdef.models.protocols import SuperResolutionNetwork
from srdef.paths import expanded
from srdef.programs import jit
from srdef.storage import files
from srdef.training import together
from srdef.training.ahead import StepsAhead
from srdef.training.checkpoints import Checkpoints
from srdef.training.patches import (
    MARGIN,
    PatchSource,
    PhotographsOnDevice,
    batches,
    count_shared,
    read_folder,
    warn_of_shared,
)
from srdef.training.quality import evaluate_psnr, make_low_resolution
from srdef.weights import loading, readers

# The matrix arithmetic of each `precision`; in bf16 it is that of what is left in float32.
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bf16": "tensorfloat32"}
CROPS = ("device", "host")


def learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Linear warm-up, then halving every `halve_every` steps, or a cosine down to zero."""
    steps, warmup = config.steps, config.warmup_steps
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, steps)
    if config.schedule == "halve":
        decay = optax.exponential_decay(config.learning_rate, config.halve_every, 0.5, staircase=True)
        return optax.join_schedules(
            [optax.linear_schedule(0.0, config.learning_rate, warmup), decay], [warmup]
        )
    raise InputError(f"unknown schedule {config.schedule!r}; choose from: cosine, halve")


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "l1": lambda a, b: jnp.abs(a - b).mean(),
    "l2": lambda a, b: jnp.square(a - b).mean(),
}


def pairs(high: jax.Array, scale: int) -> tuple[jax.Array, jax.Array]:
    """Low-resolution images and their targets, in [0, 1], from a uint8 batch of padded patches."""
    target = high.astype(jnp.float32) / 255
    cut = slice(MARGIN, -MARGIN)
    low = make_low_resolution(target, scale)[:, cut, cut]
    cut = slice(MARGIN * scale, -MARGIN * scale)
    return low, target[:, cut, cut]


# The first and the last convolution of the networks that enlarge; a compact one's last is `upsample`, which
# the others have several of, by number.
_ENDS = (("head",), ("tail",), ("upsample",))


def _set_convolutions(network: Any, dtype: Any) -> None:
    """The type in which the convolutions compute, but for the first and the last of a network that enlarges.

    Those two make a few percent of the work and see the image; as their results are float32, so is what
    the residual branches are added to.
    """
    for path, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv) and path not in _ENDS:
            module.dtype = dtype


def split_modes(network: Any, precision: str = "float32") -> tuple[Any, Any, Any, Any]:
    """The structure of `network` in train mode and in evaluation mode, its parameters, and the rest.

    The modes differ where the network has batch normalisations, and with `precision="bf16"` in the type
    of the convolutions, whose weights stay float32; what `nnx.merge` makes of a structure is in its mode.
    """
    network.train()
    if precision == "bf16":
        _set_convolutions(network, jnp.bfloat16)
    training, parameters, statistics = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    network.eval()
    if precision == "bf16":
        _set_convolutions(network, None)
    return training, nnx.graphdef(network), parameters, statistics


def load_initial(network: Any, file: Path) -> None:
    """Put the weights of a trained network into one that may have another scale, in place.

    Between scales only the upsampling convolutions differ (EDSR, section 4.2: x3 and x4 start from x2);
    those that do not fit keep their random weights.

    Parameters
    ----------
    network : nnx.Module
        With random weights.
    file : path
        `.safetensors` or `.npz` in srdef's layout.

    Raises
    ------
    InputError
        If the file cannot be read, or differs in more than the upsampling.
    """
    tensors = readers.read(file, needed=loading.size_in_bytes(network))
    loading.check_settings(network, file)
    own = loading.flatten(network)
    for name, array in own.items():
        if name.startswith("upsample.") and tensors.get(name, array[:0]).shape != array.shape:
            tensors[name] = array
    tensors = {n: array for n, array in tensors.items() if n in own or not n.startswith("upsample.")}
    loading.load(network, tensors, str(file))


def initial_network(config: ml_collections.ConfigDict) -> SuperResolutionNetwork:
    """The network that `config` names, with random weights or those of `initial_weights`.

    Raises
    ------
    InputError
        For an unknown network, one that does not enlarge, or weights that do not fit.
    """
    file = expanded(config.initial_weights)
    own_layout = file.suffix in (".safetensors", ".npz")
    weights = config.initial_weights if config.initial_weights and not own_layout else None
    network = models.create(config.network, seed=config.seed, weights=weights, **config.network_options)
    if not hasattr(network, "scale"):
        raise InputError(f"model {config.network!r} is not a super-resolution network")
    if own_layout:
        load_initial(network, file)
    return network


def averaged_update(average: Any, values: Any, decay: float, step: jax.Array) -> Any:
    """The running average of parameters and statistics; it soon forgets the random first ones.

    With a decay of 0 it is the values themselves.
    """
    early = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(values, average, 1 - early)


@dataclass(frozen=True)
class Trainer:
    """One jitted training step over a fixed network structure, with a loss on pixels.

    The state is a dictionary of pytrees (`parameters`, `statistics`, `optimizer`, `average`), so that
    a checkpoint needs nothing but arrays. `average` is of parameters and statistics together: what
    normalises the averaged weights' results must have seen such weights.
    """

    training: Any
    evaluation: Any
    optimizer: optax.GradientTransformation
    scale: int
    loss: str
    ema_decay: float
    # Arrays that `step` reads and never changes; none here.
    frozen: Any = None

    def step(
        self, state: dict[str, Any], frozen: Any, high: jax.Array, step: jax.Array
    ) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """One update from a uint8 batch of padded patches; returns the new state and the loss."""
        low, target = pairs(high, self.scale)

        def loss_of(parameters: Any) -> tuple[jax.Array, Any]:
            network = nnx.merge(self.training, parameters, state["statistics"], copy=True)
            loss = LOSSES[self.loss](network(low), target)
            return loss, nnx.state(network, nnx.Not(nnx.Param))

        (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(state["parameters"])
        updates, optimizer = self.optimizer.update(gradient, state["optimizer"], state["parameters"])
        parameters = optax.apply_updates(state["parameters"], updates)
        new_state = {
            "parameters": parameters,
            "statistics": statistics,
            "optimizer": optimizer,
            "average": averaged_update(
                state["average"], nnx.merge_state(parameters, statistics), self.ema_decay, step
            ),
        }
        return new_state, {"loss": loss}

    def averaged(self, state: dict[str, Any]) -> Any:
        """The network with the averaged weights, in evaluation mode: what is evaluated and shipped."""
        return nnx.merge(self.evaluation, state["average"])


def create_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
    """Adam on gradients clipped to a global norm."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adam(learning_rate(config), b1=0.9, b2=config.adam_b2),
    )


def create_trainer(
    network: SuperResolutionNetwork, config: ml_collections.ConfigDict
) -> tuple[Trainer, dict[str, Any]]:
    """The trainer of `network` on pixels, and its initial state.

    Raises
    ------
    InputError
        For an unknown loss or schedule.
    """
    if config.loss not in LOSSES:
        raise InputError(f"unknown loss {config.loss!r}; choose from: {', '.join([*LOSSES, 'srgan'])}")
    training, evaluation, parameters, statistics = split_modes(network, config.precision)
    optimizer = create_optimizer(config)
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": optimizer.init(parameters),
        "average": jax.tree.map(jnp.copy, nnx.merge_state(parameters, statistics)),
    }
    return Trainer(training, evaluation, optimizer, network.scale, config.loss, config.ema_decay), state


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(files.for_json(record)) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Drop the records after `step`: a killed run may have logged past its last checkpoint."""
    if path.exists():
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        files.write_atomically(path, "".join(json.dumps(files.for_json(record)) + "\n" for record in kept))


def _everywhere(tree: Any, mesh: Mesh) -> Any:
    """Put what all processes have on the devices of all."""
    return batching.replicate(together.on_host(tree), mesh)


def _restored(checkpoints: Checkpoints | None, log: Path, state: Any, mesh: Mesh) -> tuple[int, float, Any]:
    """Where the training goes on, the seconds that it took so far, and its state on all devices.

    Checkpoints and log are read by the first process, which drops the records after its checkpoint.
    """
    step, before = 0, 0.0
    if checkpoints:
        alone = jax.process_count() == 1
        step, state = checkpoints.restore(_everywhere(state, mesh) if alone else together.on_host(state))
        _keep_until(log, step)
        before = max((record["seconds"] for record in read_metrics(log, ("seconds",))), default=0.0)
    # Tenths, as in the log: of days of seconds float32 would lose some.
    step, tenths = (
        number.item() for number in together.agreed((np.int32(step), np.int32(round(10 * before))))
    )
    return step, tenths / 10, _everywhere(together.agreed(state) if step else state, mesh)


def _check(config: ml_collections.ConfigDict, devices: int) -> None:
    if config.precision not in PRECISIONS:
        raise InputError(f"unknown precision {config.precision!r}; choose from: {', '.join(PRECISIONS)}")
    if config.crop not in CROPS:
        raise InputError(f"unknown crop {config.crop!r}; choose from: {', '.join(CROPS)}")
    if not 0 <= config.ema_decay < 1:
        raise InputError(f"ema_decay must be at least 0 (no average) and below 1, not {config.ema_decay}")
    for name in ("batch_size", "patch", "steps", "log_every", "evaluate_every", "checkpoint_every"):
        if config[name] < 1:
            raise InputError(f"{name} must be at least 1, not {config[name]}")
    if config.warmup_steps < 0:
        raise InputError(f"warmup_steps must be at least 0, not {config.warmup_steps}")
    # A cosine needs at least one step to fall in.
    least = config.warmup_steps + (config.schedule == "cosine")
    if config.steps < least:
        raise InputError(
            f"steps must be at least {least} with warmup_steps {config.warmup_steps} and the schedule "
            f"{config.schedule!r}, not {config.steps}"
        )
    if config.batch_size % devices:
        raise InputError(f"batch_size {config.batch_size} is not a multiple of {devices} devices")


@jit
def _all_finite(state: Any) -> jax.Array:
    """Whether there is neither NaN nor infinity in any array: one pass over them, on the device."""
    return jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(state)]).all()


def _compiled_step(
    trainer: Any, config: ml_collections.ConfigDict, mesh: Mesh, state: Any, frozen: Any, pool: Any, side: int
) -> Callable[..., Any]:
    """The training step for these shapes: `(state, frozen, pool, batch, index)` to `(state, losses)`."""

    def step(state: Any, frozen: Any, pool: Any, batch: jax.Array, index: jax.Array) -> Any:
        with jax.default_matmul_precision(PRECISIONS[config.precision]):
            return trainer.step(state, frozen, batch if pool is None else pool.crop(batch), index)

    shape, dtype = ((side, side, 3), jnp.uint8) if pool is None else ((5,), jnp.int32)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharding)
    replicated = NamedSharding(mesh, PartitionSpec())
    jitted = jit(step, donate_argnums=0, out_shardings=replicated)
    compiled = jitted.lower(state, frozen, pool, batch, np.int32(0)).compile()
    needed, devices = memory.of_program(compiled), list(mesh.local_devices)
    multiple = mesh.devices.size
    too_much = memory.shortage(config.batch_size, needed, devices, what="patches", multiple=multiple)
    if too_much:
        warn(too_much)
    return compiled


def read_metrics(path: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`; none if it does not exist.

    Of a damaged file all the lines that are whole, and have a number in every field that is `needed`; a
    warning counts the others, but for the last line, in which a killed run may have stopped.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        known = isinstance(record, dict) and type(record.get("step")) is int
        if known:
            # As `for_json` has written them.
            record = {k: float(v) if v in ("inf", "-inf") else v for k, v in record.items()}
        if known and all(_is_number(record.get(field)) for field in needed):
            records.append(record)
        elif known or number < len(lines):
            damaged.append(number)
    if damaged:
        warn(f"{path}: {len(damaged)} damaged lines are left out, the first is line {damaged[0]}")
    return records


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def train(
    network: SuperResolutionNetwork,
    config: ml_collections.ConfigDict,
    workdir: Path,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    create: Callable[..., Any] = create_trainer,
    *,
    photographs: list[np.ndarray] | None = None,
    until: int | None = None,
) -> Any:
    """Train `network` as `config` says; returns it with the averaged weights.

    Parameters
    ----------
    network : SuperResolutionNetwork
        Initialised.
    config : ConfigDict
        As in `configs/train_edsr.py`.
    workdir : Path
        Receives `checkpoints/`, their hashes (`checkpoints.json`) and `metrics.jsonl`; a run found there is
        continued from its newest checkpoint, or the one before with a warning if that is damaged. Of several
        processes the first reads and writes it.
    report : callable
        Called every `log_every` steps with the record that goes to `metrics.jsonl`: `step`, `loss`,
        `images_per_second`, `busy` (a lower bound of the share of the time in which the device computed: a
        wait for data counts in full if the device had finished by its end), `seconds` (of training, with
        compilation, evaluations and the runs before), and now and then the validation's `psnr`.
    create : callable
        From the network and the configuration to a trainer and its initial state: `create_trainer`, or
        that of `srdef.training.srgan`.
    photographs : list of (H, W, 3) uint8, optional
        Instead of reading `config.train_folder`.
    until : int, optional
        Stop after this step instead of `config.steps`, for which the learning rate is still planned.

    Raises
    ------
    InputError
        For missing folders or images, an unknown option, a batch whose patches are more than the machine's
        memory, no checkpoint that is whole or one of more steps, or a loss or weights that are not finite, of
        which no checkpoint is kept.
    """
    mesh = batching.data_mesh(jax.devices())
    _check(config, mesh.devices.size)
    photographs = read_folder(config.train_folder) if photographs is None else photographs
    source = PatchSource.create(photographs, config.patch, network.scale, config.seed)
    own = config.batch_size * len(mesh.local_devices) // mesh.devices.size
    memory.refuse_impossible(own, 3 * source.side**2, list(mesh.local_devices), what="patches")
    validation = read_folder(config.validation_folder, held_out=True) if config.validation_folder else []
    if together.first():
        warn_of_shared(config.validation_folder, count_shared(photographs, validation), len(validation))
    trainer, state = create(network, config)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    end = config.steps if until is None else min(until, config.steps)
    budget = 60 * config.minutes if config.minutes else np.inf

    log = workdir / "metrics.jsonl"
    with Checkpoints(workdir) if together.first() else nullcontext() as checkpoints:
        step, before, state = _restored(checkpoints, log, state, mesh)
        if until is None and step > config.steps:
            raise InputError(
                f"{workdir} holds a training of {step} steps, and {config.steps} are asked for; "
                "choose another folder"
            )
        if step >= end or before >= budget:
            return trainer.averaged(together.local(state))

        began = time.monotonic() - before
        frozen = _everywhere(trainer.frozen, mesh)
        on_device = config.crop == "device"
        pool = _everywhere(PhotographsOnDevice.create(source), mesh) if on_device else None
        step_function = _compiled_step(trainer, config, mesh, state, frozen, pool, source.side)
        make = source.draw if on_device else source
        measured: dict[str, jax.Array] = {}
        ahead = StepsAhead()
        started, since, idle = time.monotonic(), step, 0.0
        asked = started
        rows = together.own_rows(sharding, config.batch_size)
        for batch in batches(make, config.batch_size, step, end, rows):
            interrupts.check()
            shape = (config.batch_size, *batch.shape[1:])
            shards = jax.make_array_from_process_local_data(sharding, batch, shape)
            if all(value.is_ready() for value in measured.values()):  # type: ignore[attr-defined]
                idle += time.monotonic() - asked
            state, measured = step_function(state, frozen, pool, shards, np.int32(step))
            ahead.add(measured)
            step += 1
            last = step == end
            if step % config.log_every == 0 or last:
                measures = {name: float(value) for name, value in measured.items()}
                for name, value in measures.items():
                    if not np.isfinite(value):
                        raise InputError(f"the {name} is {value} at step {step}; lower learning_rate")
                seconds = time.monotonic() - started
                if np.isfinite(budget):
                    last = last or bool(together.agreed(np.int32(time.monotonic() - began >= budget)))
                record = {
                    "step": step,
                    **measures,
                    "images_per_second": round((step - since) * config.batch_size / seconds, 1),
                    "busy": round(1 - idle / seconds, 4),
                }
                if validation and (step % config.evaluate_every == 0 or last):
                    record["psnr"] = evaluate_psnr(trainer.averaged(together.local(state)), validation)
                record["seconds"] = round(time.monotonic() - began, 1)
                if together.first():
                    _append(log, record)
                report(record)
                started, since, idle = time.monotonic(), step, 0.0
            if step % config.checkpoint_every == 0 or last:
                if not _all_finite(state):  # a run that goes on from here could only repeat it
                    raise InputError(f"the weights are not finite after step {step}; lower learning_rate")
                if checkpoints:
                    checkpoints.save(step, together.on_host(together.local(state)))
            if last:
                break
            asked = time.monotonic()
    return trainer.averaged(together.local(state))
