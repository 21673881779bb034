"""Networks: image classifiers and super-resolution networks, as `flax.nnx` modules."""

from srdef.models import (
    compact,
    discriminator,
    edsr,
    efficientnet_lite,
    inception_resnet_v2,
    inception_v3,
    resnet,
    squeezenet,
    srresnet,
    vgg,
)
from srdef.models.registry import REGISTRY, convert, create, list_names

list = list_names

__all__ = [
    "REGISTRY",
    "compact",
    "convert",
    "create",
    "discriminator",
    "edsr",
    "efficientnet_lite",
    "inception_resnet_v2",
    "inception_v3",
    "list",
    "list_names",
    "resnet",
    "squeezenet",
    "srresnet",
    "vgg",
]
