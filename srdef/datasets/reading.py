"""From an image file to a square array of 8-bit RGB."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from srdef.errors import InputError

Crop = Literal["center", "none"]


def check_crop(crop: str) -> Crop:
    """`crop` itself; InputError with the choices if there is no such crop."""
    for choice in get_args(Crop):
        if crop == choice:
            return choice
    raise InputError(f"unknown crop {crop!r}; choose from: {', '.join(get_args(Crop))}")


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB.

    The orientation that a camera noted (EXIF) is applied; transparent parts are shown on white;
    grey, palette and CMYK images become RGB (without colour management); of 16-bit images the high
    byte is kept; of several frames or pages the first is taken.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, or not an image that Pillow reads.
    """
    if not path.is_file():
        raise InputError(f"image {path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"image {path}: the file is empty (0 bytes)")
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"image {path}: not an image in a known format") from None
    except Exception as error:  # decoders raise anything from OSError to IndexError on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"image {path}: cannot be read, it may be damaged ({reason})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.uint16)
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_square(image: Image.Image, size: int, crop: Crop) -> np.ndarray:
    """Crop and resize (bicubic, antialiased) to `(size, size, 3)` uint8.

    `crop="center"` takes the centre square of `size / (size + 32)` of the shorter side: what the
    EfficientNets are evaluated with (`preprocessing.py` in the EfficientNet repository).
    `crop="none"` resizes the whole image, whatever its proportions.
    """
    if crop == "center":
        side = max(int(size / (size + 32) * min(image.size)), 1)
        left = (image.width - side + 1) // 2
        top = (image.height - side + 1) // 2
        image = image.crop((left, top, left + side, top + side))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
