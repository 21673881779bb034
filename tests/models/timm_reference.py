"""timm, the reference of the parity tests in PyTorch."""

from srdef.commands.benchmarks.timm_networks import timm

__all__ = ["timm"]
