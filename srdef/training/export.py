"""What goes with trained weights: a card, and the curve of the training."""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from matplotlib.figure import Figure

from srdef.models.protocols import SuperResolutionNetwork
from srdef.training import super_resolution


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_curve(metrics: Path, path: Path, title: str) -> None:
    """A PNG of the loss and, where it was measured, the validation PSNR over the steps."""
    records = read_metrics(metrics)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([r["step"] for r in records], [255 * r["loss"] for r in records], color="#999999", lw=0.8)
    axes.set(xlabel="step", ylabel="L1 loss of the last batch (levels of 255)", title=title, yscale="log")
    measured = [r for r in records if "psnr" in r]
    if measured:
        twin = axes.twinx()
        twin.plot([r["step"] for r in measured], [r["psnr"] for r in measured], color="#0072b2")
        twin.set_ylabel("validation PSNR (dB, Y)", color="#0072b2")
    unfinished = path.with_name(path.name + ".part")
    figure.savefig(unfinished, format="png", dpi=120)
    unfinished.replace(path)


def parameter_count(network: SuperResolutionNetwork) -> int:
    """Number of trained parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))


def card(network: SuperResolutionNetwork, config: dict[str, Any], weights: Path) -> str:
    """A Markdown card for `weights`: what it is, how it was made, how good it is.

    The validation PSNR is measured here, on the exported weights.
    """
    name = config["network"]
    lines = [
        f"# {name}",
        "",
        f"Super-resolution x{network.scale}, {parameter_count(network):,} parameters, trained by srdef. "
        "Not the official EDSR weights.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {config['data']} |",
        f"| recipe | L1, {config['steps']} steps of {config['batch_size']} patches of {config['patch']}x"
        f"{config['patch']} low-resolution pixels, Adam {config['learning_rate']:g}, {config['schedule']} "
        f"schedule, weights averaged ({config['ema_decay']}) |",
        "| command | `python -m experiments.train_sr "
        f"--config=configs/train_edsr.py:{name.removeprefix('edsr_')} "
        "--config.train_folder=… --config.validation_folder=… --workdir=…` |",
        f"| seed | {config['seed']} |",
        f"| device | {jax.devices()[0].device_kind} |",
        f"| SHA-256 | `{hashlib.sha256(weights.read_bytes()).hexdigest()}` |",
    ]
    if config["validation_folder"]:
        photographs = super_resolution.read_folder(config["validation_folder"])
        psnr = super_resolution.evaluate_psnr(network, photographs)
        lines.append(
            f"| PSNR on {Path(config['validation_folder']).name} | {psnr:.2f} dB (Y, border {network.scale}, "
            "antialiased bicubic low resolution in 8 bits) |"
        )
    return "\n".join(lines) + "\n"
