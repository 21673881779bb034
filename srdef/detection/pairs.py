"""The data of the manifold classifier: pairs of a clean and an adversarial image, split and drawn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from srdef.datasets.crops import source_image
from srdef.datasets.dataset import Dataset
from srdef.datasets.on_disk import ImagesOnDisk
from srdef.errors import InputError, warn
from srdef.metrics import Rate, rate, roc_auc, wilson_interval

# Which of the pairs are kept is drawn from `(seed, FEWER)`; smaller numbers are those of epochs.
FEWER = 0xFFFFFFFF

# Resamples of the bootstrap.
RESAMPLES = 2000


def sources_of(dataset: Dataset) -> list[str]:
    """For each image the name of what it was cut from, or its own; copies have the name of the first.

    Images of equal pixels are of the same photograph, which lies there twice under two names; a warning
    counts them.
    """
    names = list(map(source_image, dataset.names))
    first: dict[str, str] = {name: name for name in names}

    def resolve(name: str) -> str:
        while first[name] != name:
            name = first[name]
        return name

    seen: dict[bytes, str] = {}
    for name, content in zip(names, _hashes(dataset), strict=True):
        one, other = resolve(seen.setdefault(content, name)), resolve(name)
        first[other] = one
    found = [resolve(name) for name in names]
    copies = sorted({name for name, own in zip(names, found, strict=True) if name != own})
    if copies:
        warn(
            f"manifold: {len(copies)} of {len(first)} source images hold the pixels of others, as "
            f"{copies[0]} those of {resolve(copies[0])}: they count as one"
        )
    return found


def _hashes(dataset: Dataset) -> list[bytes]:
    if isinstance(dataset.pixels, ImagesOnDisk):
        return [row.tobytes() for row in dataset.pixels.hashes()]
    return [hashlib.sha256(image.tobytes()).digest() for image in dataset.pixels]


def split_by_image(names: Sequence[str], test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the images to train on and of those to test with, both ascending; at least one each.

    Crops of the same image are never on both sides.

    Parameters
    ----------
    names : sequence of str
        Of the images; those of crops say what they were cut from (`datasets.crops.source_image`).
    test_share : float
        Share of the images that crops are cut from, or of the images themselves.
    seed : int

    Raises
    ------
    InputError
        If there are fewer than two images, or the share is not between 0 and 1.
    """
    order_of_first = {source: i for i, source in enumerate(dict.fromkeys(map(source_image, names)))}
    sources = np.array([order_of_first[source_image(name)] for name in names], int)
    count = len(order_of_first)
    if count < 2 or not 0 < test_share < 1:
        raise InputError(
            f"manifold: cannot split {count} images with a test_share of {test_share}; at least two images "
            "and a share between 0 and 1 are needed"
        )
    order = np.random.default_rng(seed).permutation(count)
    tested = min(max(round(test_share * count), 1), count - 1)
    is_tested = np.isin(sources, order[:tested])
    return np.flatnonzero(~is_tested), np.flatnonzero(is_tested)


@dataclass(frozen=True)
class Pairs:
    """Feature maps of clean images and of their adversarial versions.

    Attributes
    ----------
    maps : (1 + A, N, h, w, C) float32
        Of the clean images, then of those under each attack; NumPy's, or on the device.
    fooled : (A, N) bool
        Which adversarial images fool the classifier: the pairs.
    origin : str
        A hash of `maps`, where it is known.
    """

    maps: Any
    fooled: np.ndarray
    origin: str = ""

    def select(self, rows: np.ndarray) -> "Pairs":
        """The images at these positions."""
        return Pairs(self.maps[:, rows], self.fooled[:, rows])

    def fewer(self, count: int, seed: int) -> "Pairs":
        """At most `count` of the pairs, drawn at random; a smaller count gives some of a larger one's."""
        attacks, rows = np.nonzero(self.fooled)
        kept = np.random.default_rng((seed, FEWER)).permutation(len(rows))[:count]
        fooled = np.zeros_like(self.fooled)
        fooled[attacks[kept], rows[kept]] = True
        return replace(self, fooled=fooled)

    def batch(self, index: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Which maps are batch number `index`: `size` clean ones, then their adversarial partners.

        A function of its arguments alone: every epoch is a permutation of all pairs.

        Returns
        -------
        versions, rows : (2 size,) int32
            Positions on the first two axes of `maps`.
        """
        attacks, rows = np.nonzero(self.fooled)
        places = np.arange(index * size, (index + 1) * size)
        chosen = np.empty(size, int)
        for epoch in np.unique(places // len(rows)):
            order = _order(seed, int(epoch), len(rows))
            here = places // len(rows) == epoch
            chosen[here] = order[places[here] % len(rows)]
        versions = np.concatenate([np.zeros(size, int), 1 + attacks[chosen]])
        return versions.astype(np.int32), np.tile(rows[chosen], 2).astype(np.int32)


@lru_cache(maxsize=32)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the pairs in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def pair_accuracy(clean: np.ndarray, adversarial: np.ndarray, fooled: np.ndarray) -> float:
    """The mean accuracy over the images of all pairs, half of them clean: 0.5 for a coin."""
    called_clean = np.broadcast_to(clean <= 0, fooled.shape)[fooled]
    return float((called_clean.mean() + (adversarial > 0)[fooled].mean()) / 2)


@dataclass(frozen=True)
class Accuracy:
    """Mean accuracy over the images of pairs, half of them clean, with a 95 % interval.

    Attributes
    ----------
    value, low, high : float
        The interval is a percentile bootstrap over the images that crops are cut from; see `accuracy_of`.
    pairs : int
    """

    value: float
    low: float
    high: float
    pairs: int


def accuracy_of(clean: np.ndarray, attacked: np.ndarray, fooled: np.ndarray, names: list[str]) -> Accuracy:
    """The accuracy of logits, with its interval.

    The bootstrap over source images says nothing where they all have the same accuracy, as a single one has:
    the interval is Wilson's then, of as many images.

    Parameters
    ----------
    clean : (N,)
    attacked, fooled : (A, N)
    names : list of str
        Of the images.
    """
    pairs = fooled.sum(axis=0)
    right = pairs * (clean <= 0) + (fooled & (attacked > 0)).sum(axis=0)
    numbers = {source: i for i, source in enumerate(dict.fromkeys(map(source_image, names)))}
    group = [numbers[source_image(name)] for name in names]
    totals, rights = np.zeros(len(numbers)), np.zeros(len(numbers))
    np.add.at(totals, group, pairs)
    np.add.at(rights, group, right)
    # How often each image is drawn in each resample.
    draws = np.random.default_rng(0).multinomial(
        len(numbers), np.full(len(numbers), 1 / len(numbers)), RESAMPLES
    )
    drawn = draws @ totals
    resampled = (draws @ rights)[drawn > 0] / (2 * drawn[drawn > 0])
    value = pair_accuracy(clean, attacked, fooled)
    low, high = np.percentile(resampled, [2.5, 97.5])
    shares = rights[totals > 0] / totals[totals > 0]
    if len(shares) and np.ptp(shares) < 1e-9:
        low, high = wilson_interval(value * len(shares), len(shares))
    return Accuracy(value, float(low), float(high), int(pairs.sum()))


def rate_of(successes: np.ndarray, names: Sequence[str] | np.ndarray) -> Rate:
    """The share of True among images `(N,)`; several of them may be of one source image.

    Its interval is Wilson's. Where source images have several, it is that of as many independent images as
    would vary as much: N over the design effect (L. Kish, "Survey Sampling", 1965), with the variance of a
    ratio of sums over source images. Where all agree nothing varies, and it is that of the source images. A
    bootstrap over them is too narrow close to 0 and 1.
    """
    found = rate(successes)
    sources = list(map(source_image, names))
    numbers = {source: i for i, source in enumerate(dict.fromkeys(sources))}
    if len(numbers) == len(sources):
        return found
    group = np.array([numbers[source] for source in sources])
    count, total = len(numbers), found.total
    residuals = np.bincount(group, successes - found.value, count)
    worth: float = count
    if count > 1 and 0 < found.successes < total and np.abs(residuals).max() > 1e-9:
        variance = count / (count - 1) * (residuals**2).sum() / total**2
        worth = min(max(found.value * (1 - found.value) / variance, 1.0), total)
    low, high = wilson_interval(found.value * worth, worth)
    return found._replace(low=low, high=high)


def area(clean: np.ndarray, adversarial: np.ndarray) -> float:
    """The area under the ROC curve over logits of clean and of adversarial images."""
    positive = np.arange(len(clean) + len(adversarial)) >= len(clean)
    return roc_auc(np.concatenate([clean, adversarial]), positive)
