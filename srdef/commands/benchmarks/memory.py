"""How memory and time of an evaluation grow with the number of images, which are made when they are read.

    python -m srdef.commands.benchmarks.memory --images=500,20000

Every run is a process of its own, whose peak of resident memory the operating system tells.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef.datasets.base import Entry, Example, Source

CLASSES = 10


def generated(count: int = 500, side: int = 64) -> Source:
    """`count` images of noise, `side` pixels wide, each made of its position."""

    def entry(position: int) -> Entry:
        return Entry(-1, f"noise {position}", str(position))

    def read(position: int) -> Example:
        pixels = np.random.default_rng(position).integers(0, 256, (side, side, 3), dtype=np.uint8)
        return Example(pixels, -1, f"noise {position}")

    return Source(count, read, tuple(f"class {i}" for i in range(CLASSES)), crop="none", entry=entry)


class Cheap(nnx.Module):
    """A linear classifier of 8 x 8 mean colours, so that reading and keeping are what takes time."""

    num_classes = CLASSES

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(8 * 8 * 3, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        n, height, width, _ = images.shape
        means = images.reshape(n, 8, height // 8, 8, width // 8, 3).mean(axis=(2, 4))
        logits: jax.Array = self.out(20 * (jnp.reshape(means, (n, -1)) - 0.5))
        return logits


def network(*, rngs: nnx.Rngs) -> Cheap:
    """The classifier that the configuration names."""
    return Cheap(rngs)


def configuration(images: int, side: int, batch: int) -> dict[str, Any]:
    """An evaluation of two attacks and two defenses, whose images are kept in 8 bits and as float32."""
    return {
        "seed": 0,
        "batch_size": batch,
        "dataset": {"name": f"{__spec__.name}:generated", "count": images, "side": side},
        "classifier": {"name": f"{__spec__.name}:network"},
        "attacks": {
            "FGSM": {"name": "fgsm", "epsilon": 2 / 255, "storage": "uint8"},
            "MI-FGSM": {"name": "mifgsm", "epsilon": 2 / 255, "steps": 5, "storage": "float32"},
        },
        "defenses": {"none": {"name": "identity"}, "4 bits": {"name": "bit_depth", "bits": 4}},
    }


def measure(images: int, side: int, batch: int) -> dict[str, float]:
    """Seconds and peak of resident memory in MB of one run, with those of its first start."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.py")
        config.write_text(f"def get_config():\n    return {configuration(images, side, batch)!r}\n", "utf-8")
        words = ("evaluate", f"--config={config}", f"--workdir={folder}/run")
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "srdef", *words], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(process.returncode)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kB
    return {"images": images, "seconds": seconds, "peak_mb": usage.ru_maxrss * unit / 1e6}


def main() -> None:
    """Measure each number of images, and print one line of JSON for each as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", default="500,5000,20000", help="numbers of images")
    parser.add_argument("--side", type=int, default=64, help="height and width in pixels, a multiple of 8")
    parser.add_argument("--batch", type=int, default=100, help="images in a batch")
    options = parser.parse_args()
    for images in options.images.split(","):
        print(json.dumps(measure(int(images), options.side, options.batch)), flush=True)


if __name__ == "__main__":
    main()
