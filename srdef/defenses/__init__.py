"""Defenses: transformations of an image that stand before the classifier."""

from srdef.defenses.base import REGISTRY, Defense, Identity, Sequential, apply
from srdef.defenses.super_resolution import SuperResolution
from srdef.defenses.wavelet import Wavelet

create = REGISTRY.create
list_names = REGISTRY.names
list = REGISTRY.names

__all__ = [
    "REGISTRY",
    "Defense",
    "Identity",
    "Sequential",
    "SuperResolution",
    "Wavelet",
    "apply",
    "create",
    "list",
    "list_names",
]
