"""Reading image files: every mode ends as 8-bit RGB, and damaged files are named."""

import numpy as np
import pytest
from PIL import Image

from srdef.datasets.reading import read_image, to_square
from srdef.errors import InputError


@pytest.fixture
def levels():
    """A 24x20 picture with all its 8-bit levels different enough to tell rows and columns apart."""
    return np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def saved(path, array_or_image, **options):
    image = array_or_image if isinstance(array_or_image, Image.Image) else Image.fromarray(array_or_image)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_keep_every_level(tmp_path, levels, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", levels, **options)
    np.testing.assert_array_equal(np.asarray(read_image(path)), levels)


def test_grey_becomes_three_equal_channels(tmp_path, levels):
    path = saved(tmp_path / "grey.png", levels[..., 0])
    np.testing.assert_array_equal(np.asarray(read_image(path)), levels[..., :1].repeat(3, axis=-1))


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    deep = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24) * 137
    assert deep.max() > 65000  # the test would pass for 8 bits otherwise
    path = saved(tmp_path / "deep.png", deep)
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 1], deep >> 8)


def test_sixteen_bit_tiff_big_endian(tmp_path):
    deep = (np.arange(20 * 24).reshape(20, 24) * 137).astype(">u2")
    image = Image.frombytes("I;16B", (24, 20), deep.tobytes())
    path = saved(tmp_path / "deep.tif", image)
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 0], deep.astype(np.uint16) >> 8)


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path / "float.tiff", np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match=r"float\.tiff.*32-bit pixels"):
        read_image(path)


def test_transparent_is_white(tmp_path, levels):
    alpha = np.zeros((24, 20, 1), np.uint8)
    alpha[:12] = 255
    path = saved(tmp_path / "alpha.png", np.concatenate([levels, alpha], axis=-1))
    pixels = np.asarray(read_image(path))
    np.testing.assert_array_equal(pixels[:12], levels[:12])
    assert (pixels[12:] == 255).all()


def test_half_transparent_is_half_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 3] = 51  # a fifth of black over white
    path = saved(tmp_path / "alpha.png", pixels)
    assert (np.asarray(read_image(path)) == 204).all()


def test_palette_with_transparent_entry(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    path = saved(tmp_path / "palette.png", image, transparency=0)
    pixels = np.asarray(read_image(path))
    assert pixels[0, 0].tolist() == [200, 100, 50]
    assert (pixels[1:] == 255).all()


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    path = saved(tmp_path / "cmyk.jpg", image, quality=100)
    colour = np.asarray(read_image(path)).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, [255, 0, 0], atol=3)  # JPEG rounding


def test_camera_orientation_is_applied(tmp_path, levels):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees clockwise to show"
    path = saved(tmp_path / "turned.png", levels, exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(path)), np.rot90(levels, k=-1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_truncated_file_is_named(tmp_path, suffix, share):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(tmp_path / f"cut.{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"image .*cut\.{suffix}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_empty_missing_and_foreign_files_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("these are not pixels")
    with pytest.raises(InputError, match=r"empty\.png.*0 bytes"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(InputError, match=r"text\.png: not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")


@pytest.mark.parametrize(("width", "height", "box"), [(100, 60, (25, 5, 75, 55)), (60, 101, (5, 26, 55, 76))])
def test_center_crop_is_the_efficientnet_one(width, height, box):
    """160 / (160 + 32) of the shorter side, 60, is 50; odd remainders are rounded up."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = np.asarray(image.crop(box).resize((160, 160), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_square(image, 160, "center"), expected)


def test_without_crop_the_whole_image_is_resized():
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_square(image, 32, "none"), expected)
