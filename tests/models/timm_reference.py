"""timm, the reference of the parity tests in PyTorch."""

from experiments.benchmarks.timm_networks import timm

__all__ = ["timm"]
