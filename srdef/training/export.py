"""What a finished training leaves: weights, a card, and the curve of the training."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from srdef.errors import InputError
from srdef.models import cost
from srdef.models.protocols import SuperResolutionNetwork
from srdef.storage import files
from srdef.training import quality, super_resolution
from srdef.training.quality import Quality
from srdef.training.super_resolution import read_metrics
from srdef.weights import loading

STORAGES = ("float32", "bf16", "auto")
# With storage "auto", the PSNR in dB on Y that rounding the weights to bfloat16 may cost.
BF16_MAY_COST = 0.01
# The side of the low-resolution image that a card gives the network's cost for.
COST_SIDE = 160

# What the logged loss is multiplied by for the curve, and what the curve's axis and the card call it.
_LOSSES = {
    "l1": (255.0, "L1 loss of the last batch (levels of 255)", "L1"),
    "l2": (1.0, "mean squared error of the last batch", "mean squared error"),
    "srgan": (1.0, "generator's loss on the last batch", "perceptual and adversarial loss (SRGAN)"),
}


def save_curve(metrics: Path, path: Path, title: str, loss: str) -> None:
    """A PNG of the loss ("l1", "l2", "srgan") and, where it was measured, the PSNR over the steps."""
    records = read_metrics(metrics, ("loss",))
    factor, label, _ = _LOSSES[loss]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [factor * r["loss"] for r in records], color="#999999", lw=0.8)
    axes.set(xlabel="step", ylabel=label, title=title, yscale="log")
    measured = [r for r in records if isinstance(r.get("psnr"), float)]
    if measured:
        twin = axes.twinx()
        twin.plot([r["step"] for r in measured], [r["psnr"] for r in measured], color="#0072b2")
        twin.set_ylabel("validation PSNR (dB, Y)", color="#0072b2")
    files.save_figure(figure, path, dpi=120)


def rounded_to_bf16(network: Any) -> Any:
    """A copy whose weights are bfloat16 numbers in float32; statistics stay as they are."""
    structure, parameters, statistics = nnx.split(network, nnx.Param, ...)  # type: ignore[misc]
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype(x.dtype), parameters)
    return nnx.merge(structure, rounded, statistics)


def save_weights(network: Any, path: Path, storage: str = "float32", photographs: Any = ()) -> str:
    """Write the weights of `network` as `.safetensors`, whole or not at all.

    Parameters
    ----------
    network : SuperResolutionNetwork
        In evaluation mode.
    path : path
        Of the file.
    storage : str
        "float32"; "bf16", half the size (statistics of normalisations stay float32); or "auto": bf16 if
        it costs less than 0.01 dB of the mean PSNR on Y.
    photographs : sequence of (H, W, 3) uint8
        On which "auto" measures; without any it is float32.

    Returns
    -------
    str
        What the weights were stored as, in words, with the cost where it was measured.

    Raises
    ------
    InputError
        For an unknown storage, or a file that cannot be written.
    """
    if storage not in STORAGES:
        raise InputError(f"unknown storage {storage!r}; choose from: {', '.join(STORAGES)}")
    stored = storage
    if storage == "auto":
        stored = "float32"
        if len(photographs):
            exact = super_resolution.evaluate_psnr(network, photographs)
            loss = exact - super_resolution.evaluate_psnr(rounded_to_bf16(network), photographs)
            storage = "bf16" if loss < BF16_MAY_COST else "float32"
            stored = f"{storage} (bf16 costs {loss:.4f} dB)"
        else:
            storage = "float32"
    variables = loading.named_variables(network)
    tensors = {name: np.ascontiguousarray(array) for name, array in loading.flatten(network).items()}
    if storage == "bf16":
        for name, variable in variables.items():
            if isinstance(variable, nnx.Param):
                tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    files.write_atomically(path, loading.to_bytes(network, tensors))
    return stored


def _cell(text: str) -> str:
    """A text of the user's own in a table, which a `|` or a new line would end."""
    return " ".join(text.split()).replace("|", "\\|")


_ARITHMETIC = {
    "float32": "float32",
    "tf32": "TF32, weights float32",
    "bf16": "bfloat16, weights and the first and last convolution's results float32",
}


def card(
    network: SuperResolutionNetwork,
    config: Mapping[str, Any],
    weights: Path,
    command: str,
    records: list[dict[str, Any]],
    measured: Mapping[str, tuple[Quality, Quality]],
    stored: str = "float32",
    seen: Mapping[str, tuple[int, int]] | None = None,
) -> str:
    """A Markdown card for `weights`: what it is, how it was made, how good it is.

    Parameters
    ----------
    network : SuperResolutionNetwork
        As it was exported.
    config : mapping
        The training's configuration as plain data.
    weights : path
        The exported file.
    command : str
        The exact command.
    records : list of dict
        Of the training's `metrics.jsonl`.
    measured : mapping
        For the names of folders, the quality of `network` and of bicubic interpolation.
    stored : str
        As `save_weights` returns it.
    seen : mapping, optional
        For the names of folders, how many of their images were trained on, and how many they have.
    """
    name = config["network"]
    steps = f"{config['steps']} planned steps"
    if records:  # the log may have been lost
        done = records[-1]["step"]
        steps = f"{done} steps" if done == config["steps"] else f"{done} of {steps}"
    averaged = (
        f"weights averaged ({config['ema_decay']})" if config["ema_decay"] else "weights of the last step"
    )
    schedule = "cosine schedule"
    if config["schedule"] == "halve":
        schedule = f"halved every {config['halve_every']} steps"
    recipe = (
        f"{_LOSSES[config['loss']][2]}, {steps} of {config['batch_size']} patches of "
        f"{config['patch']}x{config['patch']} low-resolution pixels, Adam {config['learning_rate']:g}, "
        f"{schedule}, {averaged}"
    )
    gmac = cost.multiply_accumulates(network, COST_SIDE, COST_SIDE) / 1e9
    rows = {"cost": f"{gmac:.2f} GMAC ({2 * gmac:.2f} GFLOPs) for {COST_SIDE} x {COST_SIDE} pixels"}
    rows |= {"data": config["data"], "recipe": recipe, "arithmetic": _ARITHMETIC[config["precision"]]}
    rows["command"] = f"`{command}`"
    if config["initial_weights"]:
        rows["started from"] = Path(config["initial_weights"]).name
    if config["loss"] == "srgan":
        perceptual = config["perceptual"]
        rows["feature map"] = f"{perceptual['network']}, {perceptual['endpoint'] or 'the last'}"
        rows["feature map"] += f", times {perceptual['scale']:g}"
        weights_of = config["loss_weights"].items()
        rows["weights of the losses"] = ", ".join(f"{name} {value:g}" for name, value in weights_of)
    rows["seed"] = str(config["seed"])
    devices = jax.devices()  # those of all processes, which have trained together
    rows["device"] = (f"{len(devices)} x " if len(devices) > 1 else "") + devices[0].device_kind
    if records:
        rows["time"] = f"{records[-1]['seconds'] / 60:.1f} minutes"
    rows["stored as"] = stored
    rows["SHA-256"] = f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`"
    rows["licence"] = f"Apache-2.0 for the weights; the training images: {config['licence']}"
    lines = [
        f"# {name}",
        "",
        f"Super-resolution x{network.scale}, {cost.parameter_count(network):,} parameters, trained by srdef. "
        "Not the weights of the network's authors, and not to be called by their name.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_cell(value)} |" for key, value in rows.items()),
    ]
    if measured:
        lines += [
            "",
            "| images | method | PSNR (dB), Y | SSIM, Y | PSNR (dB), RGB | SSIM, RGB |",
            "|---|---|---:|---:|---:|---:|",
        ]
        for folder, qualities in measured.items():
            for method, values in zip((name, "bicubic"), qualities, strict=True):
                lines.append(f"| {_cell(folder)} | {method} | {' | '.join(quality.cells(values))} |")
        lines += ["", quality.CONDITIONS.format(border=network.scale)]
    for folder, (shared, total) in (seen or {}).items():
        if shared:
            lines += [
                "",
                f"{shared} of the {total} images in {folder} were trained on: no test of this network.",
            ]
    if config["validation_folder"]:
        folder = Path(config["validation_folder"]).name
        lines += [
            "",
            f"{folder} was looked at during the training and chose nothing: these are its last weights.",
        ]
    return "\n".join(lines) + "\n"
