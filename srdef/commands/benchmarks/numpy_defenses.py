"""Quilting and the deflections of pixel deflection, transcribed from their papers into plain NumPy.

Oracles of the tests, and what the benchmark compares with; in double precision.
"""

from collections.abc import Sequence

import numpy as np


def cheapest_path(error: np.ndarray) -> np.ndarray:
    """The minimum-error path from the first to the last row (Efros and Freeman 2001, section 2.1)."""
    totals = error.copy()
    for row in range(1, len(error)):
        sides = np.pad(totals[row - 1], 1, constant_values=np.inf)
        totals[row] += np.minimum(np.minimum(sides[:-2], sides[1:-1]), sides[2:])
    path = [int(totals[-1].argmin())]
    for row in range(len(error) - 2, -1, -1):
        first = max(path[-1] - 1, 0)
        path.append(first + int(totals[row, first : path[-1] + 2].argmin()))
    return np.array(path[::-1])


def quilt(image: np.ndarray, patches: np.ndarray, overlap: int) -> np.ndarray:
    """Raster order, nearest patch of the bank, cut through the overlaps with what already lies there.

    Parameters
    ----------
    image : float array (H, W, 3) in [0, 1]
    patches : uint8 array (P, size, size, 3)
    overlap : int
    """
    size = patches.shape[1]
    stride = size - overlap
    flat = patches.reshape(len(patches), -1) / 255.0
    lengths = (flat**2).sum(axis=1)
    rows, columns = (max(-(-(side - overlap) // stride), 1) for side in image.shape[:2])
    beyond = [
        (0, count * stride + overlap - side)
        for count, side in zip((rows, columns), image.shape[:2], strict=True)
    ]
    padded = np.pad(image.astype(np.float64), [*beyond, (0, 0)], mode="edge")
    canvas = np.zeros_like(padded)
    across = np.arange(size)
    for y in range(0, rows * stride, stride):
        queries = np.stack(
            [padded[y : y + size, x : x + size].ravel() for x in range(0, columns * stride, stride)]
        )
        nearest = flat[(lengths - 2 * queries @ flat.T).argmin(axis=1)].reshape(-1, size, size, 3)
        for x, patch in zip(range(0, columns * stride, stride), nearest, strict=True):
            old = canvas[y : y + size, x : x + size]
            error = ((old - patch) ** 2).sum(axis=-1)
            take = np.ones((size, size), bool)
            if x > 0:
                take &= across[None, :] >= cheapest_path(error[:, :overlap])[:, None]
            if y > 0:
                take &= across[:, None] >= cheapest_path(error[:overlap].T)[None, :]
            old[take] = patch[take]
    return canvas[: image.shape[0], : image.shape[1]]


def deflect(image: np.ndarray, draws: Sequence[np.ndarray]) -> np.ndarray:
    """Copy one value after the other; `draws` as `srdef.defenses.pixel_deflection.Draws`."""
    result = image.copy()
    for y, x, c, from_y, from_x in zip(*draws, strict=True):
        result[y, x, c] = result[from_y, from_x, c]
    return result
