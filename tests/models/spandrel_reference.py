"""spandrel, which has the code of Real-ESRGAN's networks: the reference of the compact network."""

import timm_reference  # noqa: F401  (puts an empty torchvision in place, which spandrel imports)
from spandrel.architectures.Compact import Compact as SRVGGNetCompact

__all__ = ["SRVGGNetCompact"]
