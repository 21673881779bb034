"""Training a super-resolution network on high-resolution images alone.

The recipe is EDSR's (Lim et al., 2017, section 4): patches of 48x48 low-resolution pixels, L1 loss (or
the squared error of SRResNet), Adam, flips and quarter turns. The low-resolution patch is made on the
device by the antialiased bicubic of the literature and rounded to 8 bits. Batch `step` is a function
of the seed and `step` alone, so a run that was killed continues as if it had not been.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from srdef import batching, images
from srdef.datasets.files import SUFFIXES, existing_folder, list_images
from srdef.datasets.reading import read_image
from srdef.errors import InputError
from srdef.evaluation import metrics
from srdef.models.protocols import SuperResolutionNetwork

# Low-resolution pixels cut off around each patch, so that its border is made from real neighbours.
MARGIN = 4


def read_folder(folder: str | Path) -> list[np.ndarray]:
    """All images below `folder` as RGB uint8 `(H, W, 3)`, decoded once, in the order of their paths.

    Raises
    ------
    InputError
        If there is no such folder, no image in it, or one that cannot be read.
    """
    paths = list_images(existing_folder(folder))
    if not paths:
        raise InputError(f"no images ({', '.join(SUFFIXES)}) in {folder}")
    return [np.asarray(read_image(path)) for path in paths]


def cut_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Cut the bottom and right edges so that both sides are multiples of `scale`."""
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


@dataclass(frozen=True)
class PatchSource:
    """Random high-resolution patches; patch `index` depends on `seed` and `index` alone.

    An image is drawn with probability proportional to its area. Patches are uint8
    `(scale·(patch + 2·MARGIN),) * 2 + (3,)`, turned and flipped at random.
    """

    photographs: list[np.ndarray]
    patch: int
    scale: int
    seed: int

    @classmethod
    def create(cls, photographs: list[np.ndarray], patch: int, scale: int, seed: int) -> "PatchSource":
        side, margin = scale * patch, scale * MARGIN
        large = [cut_to_multiple(image, scale) for image in photographs if min(image.shape[:2]) >= side]
        if not large:
            raise InputError(f"no training image has both sides of at least {side} pixels")
        pad = ((margin, margin), (margin, margin), (0, 0))
        return cls([np.pad(image, pad, mode="symmetric") for image in large], patch, scale, seed)

    def __call__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, index))
        areas = np.array([image.shape[0] * image.shape[1] for image in self.photographs], np.float64)
        image = self.photographs[rng.choice(len(areas), p=areas / areas.sum())]
        side = self.scale * (self.patch + 2 * MARGIN)
        # Corners on the low-resolution grid, as if the whole image had been made small.
        top = self.scale * rng.integers((image.shape[0] - side) // self.scale + 1)
        left = self.scale * rng.integers((image.shape[1] - side) // self.scale + 1)
        patch = np.rot90(image[top : top + side, left : left + side], int(rng.integers(4)))
        return patch[:, ::-1] if rng.integers(2) else patch


def batches(source: PatchSource, batch_size: int, first_step: int, steps: int) -> Iterator[np.ndarray]:
    """The batches of steps `first_step` … `steps - 1`, made ahead in threads."""
    patches = grain.MapDataset.range(first_step * batch_size, steps * batch_size)
    stream = patches.map(lambda index: np.ascontiguousarray(source(int(index)))).batch(batch_size)
    return iter(stream.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=64)))


def make_low_resolution(high: jax.Array | np.ndarray, scale: int) -> jax.Array:
    """`(..., scale·H, scale·W, 3)` to `(..., H, W, 3)`: MATLAB's bicubic `imresize`, 8-bit rounding."""
    height, width = high.shape[-3] // scale, high.shape[-2] // scale
    return images.round_to_8_bits(images.resize(high, height, width, border="symmetric"))


@jax.jit
def _predict(network: SuperResolutionNetwork, low: jax.Array) -> jax.Array:
    return network(low)


def _psnr(high: np.ndarray, recovered: jax.Array, scale: int) -> float:
    rounded = np.asarray(images.round_to_8_bits(recovered))
    return float(metrics.psnr(rounded, high, border=scale, luma=True))


def evaluate_psnr(network: SuperResolutionNetwork, photographs: Iterable[np.ndarray]) -> float:
    """Mean PSNR in dB of `network` on uint8 photographs, as the literature measures it.

    On Y of YCbCr, without a border of `scale` pixels, the output rounded to 8 bits.
    """
    values = []
    for photograph in photographs:
        high = images.from_uint8(cut_to_multiple(photograph, network.scale))
        low = make_low_resolution(high, network.scale)
        values.append(_psnr(high, _predict(network, low[None])[0], network.scale))
    return float(np.mean(values))


def bicubic_psnr(photographs: Iterable[np.ndarray], scale: int) -> float:
    """What `evaluate_psnr` gives for bicubic interpolation."""
    values = []
    for photograph in photographs:
        high = images.from_uint8(cut_to_multiple(photograph, scale))
        low = make_low_resolution(high, scale)
        enlarged = images.resize(low, high.shape[0], high.shape[1], border="symmetric")
        values.append(_psnr(high, enlarged, scale))
    return float(np.mean(values))


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


def split_modes(network: Any) -> tuple[Any, Any, Any, Any]:
    """The structure of `network` in train mode and in evaluation mode, its parameters, and the rest.

    The modes differ where the network has batch normalisations; what `nnx.merge` makes of a structure
    is in its mode.
    """
    network.train()
    training, parameters, statistics = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    network.eval()
    return training, nnx.graphdef(network), parameters, statistics


def averaged_update(average: Any, parameters: Any, decay: float, step: jax.Array) -> Any:
    """The running average of the parameters; it starts late enough to forget the random first ones."""
    early = jnp.minimum(decay, (1 + step) / (10 + step))
    return optax.incremental_update(parameters, average, 1 - early)


@dataclass(frozen=True)
class Trainer:
    """One jitted training step over a fixed network structure, with a loss on pixels.

    The state is a dictionary of pytrees (`parameters`, `statistics`, `optimizer`, `average`), so that
    a checkpoint needs nothing but arrays.
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
            "average": averaged_update(state["average"], parameters, self.ema_decay, step),
        }
        return new_state, {"loss": loss}

    def averaged(self, state: dict[str, Any]) -> Any:
        """The network with the averaged weights, in evaluation mode: what is evaluated and shipped."""
        return nnx.merge(self.evaluation, state["average"], state["statistics"])


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
    training, evaluation, parameters, statistics = split_modes(network)
    optimizer = create_optimizer(config)
    state = {
        "parameters": parameters,
        "statistics": statistics,
        "optimizer": optimizer.init(parameters),
        "average": jax.tree.map(jnp.copy, parameters),
    }
    return Trainer(training, evaluation, optimizer, network.scale, config.loss, config.ema_decay), state


def _append(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Drop the records after `step`: a killed run may have logged past its last checkpoint."""
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    path.write_text("".join(line + "\n" for line in kept))


def train(
    network: SuperResolutionNetwork,
    config: ml_collections.ConfigDict,
    workdir: Path,
    report: Callable[[dict[str, Any]], None] = lambda record: None,
    create: Callable[..., Any] = create_trainer,
) -> Any:
    """Train `network` as `config` says; returns it with the averaged weights.

    Parameters
    ----------
    network : SuperResolutionNetwork
        Initialised.
    config : ConfigDict
        As in `configs/train_edsr.py`.
    workdir : Path
        Receives `checkpoints/` and `metrics.jsonl`; a run found there is continued.
    report : callable
        Called with `{"step", "loss", "images_per_second", ...}` every `log_every` steps.
    create : callable
        From the network and the configuration to a trainer and its initial state: `create_trainer`, or
        that of `srdef.training.srgan`.

    Raises
    ------
    InputError
        For missing folders or images, or an unknown schedule or loss.
    """
    source = PatchSource.create(read_folder(config.train_folder), config.patch, network.scale, config.seed)
    validation = read_folder(config.validation_folder) if config.validation_folder else []
    trainer, state = create(network, config)
    mesh = batching.data_mesh()
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    if config.batch_size % mesh.devices.size:
        raise InputError(f"batch_size {config.batch_size} is not a multiple of {mesh.devices.size} devices")
    step_function = jax.jit(trainer.step, donate_argnums=0)

    log = workdir / "metrics.jsonl"
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=config.checkpoint_every)
    with ocp.CheckpointManager((workdir / "checkpoints").absolute(), options=options) as manager:
        first = manager.latest_step() or 0
        state = batching.replicate(state, mesh)
        frozen = batching.replicate(trainer.frozen, mesh)
        if first:
            state = manager.restore(first, args=ocp.args.StandardRestore(state))
        _keep_until(log, first)

        started, since = time.monotonic(), first
        for index, batch in enumerate(batches(source, config.batch_size, first, config.steps), start=first):
            batch = jax.device_put(batch, sharding)
            state, measured = step_function(state, frozen, batch, jnp.asarray(index))
            step = index + 1
            last = step == config.steps
            if step % config.log_every == 0 or last:
                measures = {name: float(value) for name, value in measured.items()}
                for name, value in measures.items():
                    if not np.isfinite(value):
                        raise InputError(f"the {name} is {value} at step {step}; lower learning_rate")
                speed = (step - since) * config.batch_size / (time.monotonic() - started)
                started, since = time.monotonic(), step
                record = {"step": step, **measures, "images_per_second": round(speed, 1)}
                if validation and (step % config.evaluate_every == 0 or last):
                    record["psnr"] = evaluate_psnr(trainer.averaged(state), validation)
                    started = time.monotonic()
                _append(log, record)
                report(record)
            if step % config.checkpoint_every == 0 or last:
                manager.save(step, args=ocp.args.StandardSave(state), force=last)
        manager.wait_until_finished()
    return trainer.averaged(state)
