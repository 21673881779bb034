"""From an image file, or an array of a data set, to an array of the wanted size."""

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, TiffImagePlugin

from srdef.errors import InputError

Crop = Literal["center", "none"]


def check_crop(crop: str) -> Crop:
    """`crop` itself; InputError with the choices if there is no such crop."""
    for choice in get_args(Crop):
        if crop == choice:
            return choice
    raise InputError(f"unknown crop {crop!r}; choose from: {', '.join(get_args(Crop))}")


# The formats of the suffixes that `folder` reads; Pillow knows others, of which one runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

# As many as a camera of 61 megapixels takes; a file of a few kB may claim more than fit into memory.
MAX_PIXELS = 64_000_000

# A JPEG spends at least one bit on each block of 8x8 pixels.
_JPEG_PIXELS_PER_BYTE = 8 * 64


def max_pixels() -> int:
    """The most pixels that an image file may have: `$SRDEF_MAX_PIXELS`, or 64 million.

    Raises
    ------
    InputError
        If the variable is not a whole number above 0.
    """
    text = os.environ.get("SRDEF_MAX_PIXELS") or str(MAX_PIXELS)
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise InputError(f"SRDEF_MAX_PIXELS must be a whole number above 0, not {text!r}")
    return int(text)


def read_image(path: Path) -> Image.Image:
    """Read an image file (JPEG, PNG, WebP, BMP or TIFF, whatever its name) as 8-bit RGB.

    The orientation that a camera noted (EXIF) is applied; transparent parts are shown on white;
    grey, palette and CMYK images become RGB (without colour management); of images of 12 or 16
    bits the highest 8 are kept; of several frames or pages the first is taken.

    Raises
    ------
    InputError
        If the file is missing, empty, truncated, has more than `max_pixels` pixels, or is not an image in
        one of the formats.
    """
    if not path.is_file():
        raise InputError(f"image {path}: no such file")
    most = max_pixels()
    if most > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit
        Image.MAX_IMAGE_PIXELS = max(most, Image.MAX_IMAGE_PIXELS)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"image {path}: the file is empty (0 bytes)")
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image, path, most)
            _scale_transparency(image)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), *_levels_of_tiff(image))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"image {path}: more than {most:,} pixels; {_RAISE}") from None
    except Image.UnidentifiedImageError:
        raise InputError(
            f"image {path}: not an image in a known format ({', '.join(FORMATS)}) with 1 to 4 channels of 8 "
            "or 16 bits"
        ) from None
    except Exception as error:  # decoders raise anything from OSError to IndexError on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"image {path}: cannot be read, it may be damaged ({reason})") from None


# By how Pillow reads the pixels of a PNG, which become 8 bits: what must become of the colour that is
# transparent, which it leaves as it stands in the file.
_TRANSPARENT = {
    "L;2": lambda level: 85 * level,
    "L;4": lambda level: 17 * level,
    "RGB;16B": lambda level: level >> 8,
}

# Two tags of TIFF, and a value of the second.
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0


def _scale_transparency(image: Image.Image) -> None:
    """Give the transparent colour of a PNG of 2, 4 or 16 bits the levels that its pixels will have."""
    colour = image.info.get("transparency")
    if not isinstance(image, PngImagePlugin.PngImageFile) or colour is None or not image.tile:
        return
    scale = _TRANSPARENT.get(str(image.tile[0][3]))
    if scale is not None:
        image.info["transparency"] = tuple(map(scale, colour)) if isinstance(colour, tuple) else scale(colour)


def _levels_of_tiff(image: Image.Image) -> tuple[int, bool]:
    """How many bits a level of a TIFF in shades of gray has, and whether 0 is white; of others 16, False."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16, False
    (bits, *_), photometric = image.tag_v2.get(_BITS, (16,)), image.tag_v2.get(_PHOTOMETRIC)
    return bits, photometric == _WHITE_IS_ZERO


_RAISE = "set the environment variable SRDEF_MAX_PIXELS to read it"


def _check_size(image: Image.Image, path: Path, most: int) -> None:
    """InputError for an image that is too large, or larger than its file can hold; nothing is decoded yet."""
    pixels, size = image.width * image.height, path.stat().st_size
    shape = f"{image.width}x{image.height} pixels"
    if pixels > most:
        raise InputError(f"image {path}: {shape} are more than {most:,}; {_RAISE}")
    # The decoders of the other formats say so themselves; that of JPEG paints the rest grey.
    if image.format in ("JPEG", "MPO") and pixels > _JPEG_PIXELS_PER_BYTE * size:
        raise InputError(
            f"image {path}: cannot be read, it may be damaged "
            f"({size} bytes cannot hold the {shape} of its header)"
        )


def read_array(pixels: np.ndarray, where: str) -> Image.Image:
    """An image that comes as an array, as `read_image` gives one that comes as a file.

    Parameters
    ----------
    pixels : (H, W) or (H, W, C) uint8 or uint16
        C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha). Of 16 bits the high byte is kept.
    where : str
        What to call it in messages.

    Raises
    ------
    InputError
        For another shape or type, such as floats, whose range is not known.
    """
    pixels = np.asarray(pixels)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise InputError(
            f"{where}: an image must have the shape (height, width, channels) with 1 to 4 channels, "
            f"not {pixels.shape}"
        )
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise InputError(f"{where}: pixels of the type {pixels.dtype}; only uint8 and uint16 are read")
    return _to_rgb(Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and channels == 1 else pixels))


def _to_rgb(image: Image.Image, bits: int = 16, white_is_zero: bool = False) -> Image.Image:
    """Of deep levels the highest 8 of their bits; Pillow has turned 8 bits whose 0 is white itself."""
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint16)
        levels = (deep >> (bits - 8)).astype(np.uint8)
        if white_is_zero:
            levels = 255 - levels
        transparent = image.info.get("transparency")
        image = Image.fromarray(levels)
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(np.where(deep == transparent, 0, 255).astype(np.uint8)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def to_square(image: Image.Image, size: int, crop: Crop) -> np.ndarray:
    """Crop and resize (bicubic, antialiased) to `(size, size, 3)` uint8.

    `crop="center"` takes the centre square of `size / (size + 32)` of the shorter side: what the
    EfficientNets are evaluated with (`preprocessing.py` in the EfficientNet repository).
    `crop="none"` resizes the whole image, whatever its proportions. An image that has the size already is
    taken as it is: somebody has cropped it, or it is as small as the network's images.
    """
    if image.size == (size, size):
        return np.asarray(image)
    if crop == "center":
        side = max(int(size / (size + 32) * min(image.size)), 1)
        left = (image.width - side + 1) // 2
        top = (image.height - side + 1) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def fit(image: Image.Image | np.ndarray, size: int | None, crop: Crop) -> np.ndarray:
    """An image as an array `(height, width, channels)`, cropped and resized by `to_square`.

    Parameters
    ----------
    image : RGB image, or array (height, width, channels)
        Of uint8, or of float32 in [0, 1]; the channels of an array are resized one by one, which gives the
        same.
    size : int or None
        None: as it is.
    crop : {"center", "none"}

    Returns
    -------
    array (size, size, channels)
        uint8 or float32, as given.
    """
    if size is None:
        return np.asarray(image)
    if isinstance(image, Image.Image):
        return to_square(image, size, crop)
    channels = [
        to_square(Image.fromarray(np.ascontiguousarray(image[..., i])), size, crop)
        for i in range(image.shape[-1])
    ]
    squares = np.stack(channels, axis=-1)
    # The bicubic filter overshoots; Pillow clips 8 bits itself.
    return squares if squares.dtype == np.uint8 else np.clip(squares, 0, 1)
