"""How well a network recovers photographs from their bicubic reductions: PSNR and SSIM.

As the literature measures it: low resolution by MATLAB's antialiased bicubic in 8 bits, the output rounded
to 8 bits, a border of `scale` pixels left out; on Y of YCbCr and on RGB. All arithmetic is float32, also on
an accelerator whose default is coarser.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from srdef import images, metrics
from srdef.errors import InputError
from srdef.models.protocols import SuperResolutionNetwork
from srdef.programs import jit
from srdef.training.patches import cut_to_multiple


class Quality(NamedTuple):
    """Means over photographs: PSNR in dB and SSIM, on Y and on RGB."""

    psnr_y: float
    ssim_y: float
    psnr_rgb: float
    ssim_rgb: float


CONDITIONS = (
    "Low resolution: antialiased bicubic, 8 bits. Output rounded to 8 bits, border of {border} pixels left "
    "out; Y of BT.601; float32 arithmetic."
)


def cells(values: Quality) -> list[str]:
    """The four numbers as a table has them."""
    return [
        f"{values.psnr_y:.2f}",
        f"{values.ssim_y:.4f}",
        f"{values.psnr_rgb:.2f}",
        f"{values.ssim_rgb:.4f}",
    ]


def check_sizes(photographs: Iterable[np.ndarray], scale: int, folder: str) -> None:
    """InputError, which names the folder, for a photograph that is too small to be measured."""
    least = scale * -(-(metrics.SSIM_WINDOW + 2 * scale) // scale)
    for photograph in photographs:
        height, width = photograph.shape[:2]
        if min(height, width) < least:
            raise InputError(
                f"{folder}: an image of {width}x{height} pixels is too small to be measured at x{scale}: "
                f"both sides must have at least {least}"
            )


def make_low_resolution(high: jax.Array | np.ndarray, scale: int) -> jax.Array:
    """`(..., scale·H, scale·W, 3)` to `(..., H, W, 3)`: MATLAB's bicubic `imresize`, 8-bit rounding."""
    height, width = high.shape[-3] // scale, high.shape[-2] // scale
    return images.round_to_8_bits(images.resize(high, height, width, border="symmetric"))


@jit
def _predict(network: SuperResolutionNetwork, low: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("float32"):
        return network(low)


def network_results(
    network: SuperResolutionNetwork, photographs: Iterable[np.ndarray]
) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Each uint8 photograph, cut to a multiple of the scale, and what `network` makes of its reduction."""
    for photograph in photographs:
        high = images.from_uint8(cut_to_multiple(photograph, network.scale))
        low = make_low_resolution(high, network.scale)
        yield high, np.asarray(images.round_to_8_bits(_predict(network, low[None])[0]))


def bicubic_results(scale: int, photographs: Iterable[np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The same for bicubic interpolation by `scale`."""
    for photograph in photographs:
        high = images.from_uint8(cut_to_multiple(photograph, scale))
        enlarged = images.resize(
            make_low_resolution(high, scale), high.shape[0], high.shape[1], border="symmetric"
        )
        yield high, np.asarray(images.round_to_8_bits(enlarged))


def measure(results: Iterable[tuple[np.ndarray, np.ndarray]], border: int) -> Quality:
    """Mean quality over pairs of a photograph and its recovery, `(H, W, 3)` in [0, 1]."""
    values = []
    for high, recovered in results:
        row: list[float] = []
        for luma in (True, False):
            for metric in (metrics.psnr, metrics.ssim):
                row.append(float(metric(recovered, high, border=border, luma=luma)))
        values.append(row)
    return Quality(*np.mean(values, axis=0).tolist())


def beside_bicubic(network: SuperResolutionNetwork, photographs: list[np.ndarray]) -> tuple[Quality, Quality]:
    """The quality of `network`, and that of bicubic interpolation by its scale."""
    return (
        measure(network_results(network, photographs), network.scale),
        measure(bicubic_results(network.scale, photographs), network.scale),
    )


def _mean_psnr(results: Iterable[tuple[np.ndarray, np.ndarray]], border: int) -> float:
    values = [metrics.psnr(recovered, high, border=border, luma=True) for high, recovered in results]
    return float(np.mean(values))


def evaluate_psnr(network: SuperResolutionNetwork, photographs: Iterable[np.ndarray]) -> float:
    """Mean PSNR in dB of `network` on Y, without the rest: what a training looks at now and then."""
    return _mean_psnr(network_results(network, photographs), network.scale)


def bicubic_psnr(photographs: Iterable[np.ndarray], scale: int) -> float:
    """What `evaluate_psnr` gives for bicubic interpolation."""
    return _mean_psnr(bicubic_results(scale, photographs), scale)
