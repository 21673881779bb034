"""Defenses: transformations of an image that stand before the classifier."""

from srdef.defenses.base import REGISTRY, Defense, Identity, Sequential, apply
from srdef.defenses.bit_depth import BitDepth
from srdef.defenses.interpolation import Interpolation
from srdef.defenses.jpeg import Jpeg, Shield
from srdef.defenses.median import Median
from srdef.defenses.non_local_means import NonLocalMeans
from srdef.defenses.patch_bank import PatchBank, bank_from_dataset, bank_from_folder, build_bank, load_bank
from srdef.defenses.pipelines import create_paper_released, create_quilting_tvm
from srdef.defenses.pixel_deflection import PixelDeflection
from srdef.defenses.quilting import Quilting
from srdef.defenses.resize_pad import ResizePad
from srdef.defenses.super_resolution import SuperResolution
from srdef.defenses.total_variation import TotalVariation
from srdef.defenses.wavelet import Wavelet

create = REGISTRY.create
list_names = REGISTRY.names

__all__ = [
    "REGISTRY",
    "BitDepth",
    "Defense",
    "Identity",
    "Interpolation",
    "Jpeg",
    "Median",
    "NonLocalMeans",
    "PatchBank",
    "PixelDeflection",
    "Quilting",
    "ResizePad",
    "Sequential",
    "Shield",
    "SuperResolution",
    "TotalVariation",
    "Wavelet",
    "apply",
    "bank_from_dataset",
    "bank_from_folder",
    "build_bank",
    "create",
    "create_paper_released",
    "create_quilting_tvm",
    "list_names",
    "load_bank",
]
