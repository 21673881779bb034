"""Networks: image classifiers and super-resolution networks, as `flax.nnx` modules."""

from srdef.models import edsr, efficientnet_lite
from srdef.models.registry import REGISTRY, create, list_names

list = list_names

__all__ = ["REGISTRY", "create", "edsr", "efficientnet_lite", "list", "list_names"]
