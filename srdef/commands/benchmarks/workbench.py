"""What the rows of the benchmark of an accelerator work on: sizes, networks, images, and arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from srdef import models
from srdef.batching import pad_rows, slices
from srdef.commands import cli
from srdef.commands.benchmarks import cifar, common
from srdef.commands.benchmarks.common import Run, Settings
from srdef.errors import InputError

FLOAT32, TF32, BF16 = "float32", "TF32", "bf16"
# How JAX calls it; in bf16 weights and images are rounded themselves.
PRECISIONS = {FLOAT32: "highest", TF32: "tensorfloat32", BF16: "default"}


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes
    ----------
    side, batch : int
        Of the images that are attacked.
    ensemble : int
        Images for AutoAttack.
    fewer : int
        What the numbers of steps are divided by.
    enlarged_side, enlarged : int
        Of the images that are super-resolved, or defended one at a time in other ways.
    defended : int
        Images for the other defenses.
    classified : int
        Images for the larger classifiers.
    shortest : float
        Seconds for which a short row is repeated.
    toy : bool
        Whether the networks are as small as can be.
    """

    side: int = 160
    batch: int = 252
    ensemble: int = 256
    fewer: int = 1
    enlarged_side: int = 299
    enlarged: int = 16
    defended: int = 32
    classified: int = 64
    shortest: float = 0.3
    toy: bool = False

    def steps(self, number: int) -> int:
        """As many steps as the row has at this size."""
        return max(number // self.fewer, 1)


TINY = Sizes(cifar.SIDE, 2, 3, 10, 24, 2, 2, 2, 0.0, toy=True)


def sizes(settings: Settings) -> Sizes:
    """Those that the options choose."""
    if settings.tiny:
        for name in ("size", "batch"):
            if getattr(settings, name) is not None:
                raise InputError(f"--tiny has its own --{name}; leave one of them out")
        return TINY
    full = Sizes()
    return replace(full, side=settings.size or full.side, batch=settings.batch or full.batch)


@jax.jit
def forward(network: Any, images: jax.Array) -> jax.Array:
    """What a network makes of a batch, in one program."""
    return network(images)


def in_arithmetic(arithmetic: str, function: Callable[..., Any], *arguments: Any) -> Run:
    """A call of the function on the arguments, with products of matrices in that arithmetic."""

    def run() -> Any:
        with jax.default_matmul_precision(PRECISIONS[arithmetic]):
            return function(*arguments)

    return run


def rounded(tree: Any, arithmetic: str) -> Any:
    """Weights or images on the device, as the arithmetic has them: in bf16 each number is one."""
    return _in_bf16(tree) if arithmetic == BF16 else jax.tree.map(jnp.asarray, tree)


@jax.jit
def _in_bf16(tree: Any) -> Any:
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def photographs(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The sample images, repeated to as many as are wanted, and their labels.

    Noise and zeros where the package that has them is not installed: that costs the same time.
    """
    try:
        images, labels = common.sample_images(side, 1)
    except InputError as error:
        cli.console.print(f"random images: {error}", highlight=False)
        images = np.random.default_rng(0).random((min(count, 20), side, side, 3), np.float32)
        labels = np.zeros(len(images), np.int32)
    return repeated(images, count), repeated(labels, count)


def repeated(rows: np.ndarray, count: int) -> np.ndarray:
    """The rows again and again, up to `count` of them."""
    return rows[np.arange(count) % len(rows)]


class Workbench:
    """Networks and images, each made when it is first needed."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.pretrained = False
        self._larger: dict[str, Any] = {}

    @cached_property
    def classifier(self) -> Any:
        """EfficientNet-Lite0; with random weights where the package with the published ones is missing."""
        if self.sizes.toy:
            return cifar.SmallNetwork(nnx.Rngs(0))
        try:
            network = models.create("efficientnet_lite0", pretrained=True)
        except InputError as error:
            cli.console.print(f"random weights: {error}", highlight=False)
            return models.create("efficientnet_lite0")
        self.pretrained = True
        return network

    @cached_property
    def attacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Images that the classifier classifies correctly, and their labels: the batch of the attacks."""
        return self.images_to_attack(self.sizes.batch)

    def images_to_attack(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As many, with the labels that a network with random weights gives them itself."""
        classifier = self.classifier
        images, labels = photographs(self.sizes.side, 20)
        # In batches of the size that the rows take, so that they share the program.
        predict, size = partial(forward, classifier), self.sizes.batch
        logits = [
            in_arithmetic(FLOAT32, predict, pad_rows(images[rows], size))()
            for rows in slices(len(images), size)
        ]
        predictions = np.concatenate(logits).argmax(axis=-1).astype(np.int32)[: len(images)]
        right = predictions == labels
        if not (self.pretrained and right.any()):
            return repeated(images, count), repeated(predictions, count)
        return repeated(images[right], count), repeated(labels[right], count)

    @cached_property
    def edsr(self) -> Any:
        """EDSR-baseline, to twice the size."""
        if self.sizes.toy:
            return models.create("edsr", blocks=1, features=8)
        return models.create("edsr_baseline_x2", pretrained=True)

    @cached_property
    def small_images(self) -> np.ndarray:
        """The batch that is super-resolved."""
        return photographs(self.sizes.enlarged_side, self.sizes.enlarged)[0]

    @property
    def classifiers(self) -> dict[str, int]:
        """The larger classifiers, and the sides of their images."""
        if self.sizes.toy:
            return {"resnet50_torchvision": 32}
        return {"inception_v3": 299, "resnet50_torchvision": 224}

    def larger(self, name: str) -> Any:
        """One of these classifiers, with random weights."""
        if name not in self._larger:
            self._larger[name] = models.create(name)
        return self._larger[name]
