"""Real photographs for the tests: the ImageNet samples that the package foolbox ships."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def _paths() -> list[Path]:
    spec = importlib.util.find_spec("foolbox")
    assert spec is not None
    assert spec.origin is not None
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def photograph(index: int, height: int, width: int) -> np.ndarray:
    """Sample `index` (0 to 19) at the given size, float32 (height, width, 3) in [0, 1], 8-bit levels."""
    image = Image.open(_paths()[index]).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32) / np.float32(255)
