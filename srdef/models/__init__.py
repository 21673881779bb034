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
from srdef.models.black_box import from_black_box
from srdef.models.frameworks import from_equinox, from_keras, from_linen, from_nnx, wrap
from srdef.models.registry import REGISTRY, convert, create, list_names
from srdef.models.torch_bridge import from_torch
from srdef.models.wrapped import Wrapped, from_function

__all__ = [
    "REGISTRY",
    "Wrapped",
    "compact",
    "convert",
    "create",
    "discriminator",
    "edsr",
    "efficientnet_lite",
    "from_black_box",
    "from_equinox",
    "from_function",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_torch",
    "inception_resnet_v2",
    "inception_v3",
    "list_names",
    "resnet",
    "squeezenet",
    "srresnet",
    "vgg",
    "wrap",
]
