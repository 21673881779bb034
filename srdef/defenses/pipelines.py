"""Named combinations of defenses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srdef.defenses.base import REGISTRY, Defense, Sequential
from srdef.defenses.bit_depth import BitDepth
from srdef.defenses.jpeg import Jpeg
from srdef.defenses.patch_bank import PatchBank
from srdef.defenses.quilting import create_quilting
from srdef.defenses.super_resolution import create_super_resolution
from srdef.defenses.total_variation import TotalVariation
from srdef.defenses.wavelet import Wavelet


@REGISTRY.register("quilting_tvm")
def create_quilting_tvm(
    bank: PatchBank | str | Path | Mapping[str, Any],
    overlap: int = 2,
    neighbours: int = 1,
    weight: float = 0.03,
    drop_rate: float = 0.5,
) -> Sequential:
    """Quilting, then total variation minimisation: the row "Guo et al." of the paper's Table 1.

    `bank` is as for "quilting".

    Random, same size. The gradient is zero, and the sensible surrogate the identity.
    """
    return Sequential(
        (create_quilting(bank, overlap, neighbours), TotalVariation(weight=weight, drop_rate=drop_rate))
    )


@REGISTRY.register("paper_released")
def create_paper_released(
    network: Any = None, pretrained: bool = True, sigma: float = 0.04, quality: int = 95
) -> Sequential:
    """The defense as the authors' released files have it, which is not quite as the paper says.

    Wavelet denoising with sigma on the scaled channels (scikit-image before 0.16), then JPEG,
    because the denoised image is stored as such (cut down to 8 bits, as the stored image shows:
    rounding to the nearest level would make it lighter by half a level), then super-resolution
    rounded to 8 bits.

    Deterministic. The gradient is zero; the sensible surrogate is `Sequential([Wavelet,
    SuperResolution])`. The size is that of the network's output.

    Parameters
    ----------
    network : nnx.Module or str, optional
        As for "super_resolution"; None stops at the denoised image.
    pretrained : bool
        As for "super_resolution".
    sigma : float
        0.04 is the paper's, and what the released demonstration image was made with.
    quality : int
    """
    steps: list[Defense] = [
        Wavelet(sigma=sigma, sigma_scaling="channel"),
        BitDepth(8, rounding="down"),
        Jpeg(quality),
    ]
    if network is not None:
        steps.append(create_super_resolution(network, pretrained, round_to_8_bits=True))
    return Sequential(tuple(steps))
