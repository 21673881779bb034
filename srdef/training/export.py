"""What goes with trained weights: a card, and the curve of the training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from srdef.models import cost
from srdef.models.protocols import SuperResolutionNetwork
from srdef.training import super_resolution


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


# What the logged loss is multiplied by for the curve, and what the curve's axis and the card call it.
_LOSSES = {
    "l1": (255.0, "L1 loss of the last batch (levels of 255)", "L1"),
    "l2": (1.0, "mean squared error of the last batch", "mean squared error"),
    "srgan": (1.0, "generator's loss on the last batch", "perceptual and adversarial loss (SRGAN)"),
}


def save_curve(metrics: Path, path: Path, title: str, loss: str) -> None:
    """A PNG of the loss ("l1", "l2", "srgan") and, where it was measured, the PSNR over the steps."""
    records = read_metrics(metrics)
    factor, label, _ = _LOSSES[loss]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [factor * r["loss"] for r in records], color="#999999", lw=0.8)
    axes.set(xlabel="step", ylabel=label, title=title, yscale="log")
    measured = [r for r in records if "psnr" in r]
    if measured:
        twin = axes.twinx()
        twin.plot([r["step"] for r in measured], [r["psnr"] for r in measured], color="#0072b2")
        twin.set_ylabel("validation PSNR (dB, Y)", color="#0072b2")
    unfinished = path.with_name(path.name + ".part")
    figure.savefig(unfinished, format="png", dpi=120)
    unfinished.replace(path)


def card(network: SuperResolutionNetwork, config: dict[str, Any], weights: Path) -> str:
    """A Markdown card for `weights`: what it is, how it was made, how good it is.

    The validation PSNR is measured here, on the exported weights.
    """
    name = config["network"]
    recipe = (
        f"{_LOSSES[config['loss']][2]}, {config['steps']} steps of {config['batch_size']} patches of "
        f"{config['patch']}x{config['patch']} low-resolution pixels, Adam {config['learning_rate']:g}, "
        f"{config['schedule']} schedule, weights averaged ({config['ema_decay']})"
    )
    command = (
        f"`python -m experiments.train_sr --config=configs/train_edsr.py:{name.removeprefix('edsr_')} "
        "--config.train_folder=… --config.validation_folder=… --workdir=…`"
    )
    rows = {"data": config["data"], "recipe": recipe, "command": command}
    if config["initial_weights"]:
        rows["started from"] = Path(config["initial_weights"]).name
    if config["loss"] == "srgan":
        perceptual = config["perceptual"]
        rows["feature map"] = f"{perceptual['network']}, {perceptual['endpoint'] or 'the last'}"
        rows["feature map"] += f", times {perceptual['scale']:g}"
        weights_of = config["loss_weights"].items()
        rows["weights of the losses"] = ", ".join(f"{name} {value:g}" for name, value in weights_of)
    rows["seed"] = str(config["seed"])
    rows["device"] = jax.devices()[0].device_kind
    rows["SHA-256"] = f"`{hashlib.sha256(weights.read_bytes()).hexdigest()}`"
    if config["validation_folder"]:
        photographs = super_resolution.read_folder(config["validation_folder"])
        psnr = super_resolution.evaluate_psnr(network, photographs)
        rows[f"PSNR on {Path(config['validation_folder']).name}"] = (
            f"{psnr:.2f} dB (Y, border {network.scale}, antialiased bicubic low resolution in 8 bits)"
        )
    lines = [
        f"# {name}",
        "",
        f"Super-resolution x{network.scale}, {cost.parameter_count(network):,} parameters, trained by srdef. "
        "Not the weights of the network's authors.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows.items()),
    ]
    return "\n".join(lines) + "\n"
