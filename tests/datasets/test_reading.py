"""Reading image files and arrays: every mode ends as 8-bit RGB, and damaged files are named."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from srdef.datasets import reading
from srdef.datasets.reading import read_array, read_image, to_square
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


def gray_tiff(path, bits, photometric, data):
    """A TIFF of one row of two gray pixels, which Pillow cannot write itself."""
    values = (2, 1, bits, 1, photometric, 122, 1, 1, len(data))
    tags = zip((256, 257, 258, 259, 262, 273, 277, 278, 279), values, strict=True)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, 9) + entries + struct.pack("<I", 0) + data)
    return path


@pytest.mark.parametrize(
    ("bits", "photometric", "data", "levels"),
    [
        (12, 1, bytes([0xFF, 0xF8, 0x10]), [255, 129]),
        (16, 0, struct.pack("<2H", 0, 0x80FF), [255, 127]),
        (8, 0, bytes([0, 200]), [255, 55]),
    ],
    ids=["12 bits", "16 bits, 0 is white", "8 bits, 0 is white"],
)
def test_gray_tiffs_of_other_levels(tmp_path, bits, photometric, data, levels):
    path = gray_tiff(tmp_path / "a.tif", bits, photometric, data)
    assert np.asarray(read_image(path))[0, :, 1].tolist() == levels


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "levels"),
    [
        (2, 0, bytes([0b00011011]), b"\0\1", [0, 255, 170, 255]),
        (4, 0, bytes([0x3F]), b"\0\3", [255, 255]),
        (16, 0, b"\x80\0\x40\0", b"\x40\0", [128, 255]),
        (16, 2, bytes(6) + b"\4\0\5\0\6\0", b"\4\0\5\0\6\0", [0, 255]),
    ],
    ids=["2 bits", "4 bits", "16 bits", "16 bits in colour"],
)
def test_the_transparent_colour_of_a_png_of_other_than_8_bits(
    tmp_path, depth, colour, row, transparent, levels
):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(levels), 1, depth, colour, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": transparent, b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts.items()))
    assert np.asarray(read_image(path))[0, :, 0].tolist() == levels


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


@pytest.mark.parametrize("kind", ["GIF", "EPS", "PPM", "TGA", "ICO", "PCX"])
def test_other_formats_are_not_opened_whatever_their_name(tmp_path, kind, levels):
    """An EPS would start Ghostscript."""
    path = tmp_path / "renamed.jpg"
    Image.fromarray(levels).save(path, kind)
    with Image.open(path) as image:
        assert image.format == kind
    with pytest.raises(InputError, match=r"renamed\.jpg: not an image in a known format \(JPEG, PNG"):
        read_image(path)


def png_of_one_grey(width, height):
    """A PNG of a few kB at any size: each line is one filter byte and zeros."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    pixels = zlib.compress(bytes(height * (1 + (width + 7) // 8)), 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("width", "height"), [(10800, 16383), (20000, 20000), (64_000_001, 1)])
def test_files_that_claim_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path, monkeypatch, width, height
):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_one_grey(width, height))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InputError, match=r"bomb\.png: .*more than 64,000,000.* set .*SRDEF_MAX_PIXELS"):
        read_image(path)


def test_the_most_pixels_can_be_raised_and_lowered(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(png_of_one_grey(60, 50))
    assert read_image(path).size == (60, 50)
    monkeypatch.setenv("SRDEF_MAX_PIXELS", "2999")
    with pytest.raises(InputError, match=r"large\.png: 60x50 pixels are more than 2,999; set"):
        read_image(path)
    monkeypatch.setenv("SRDEF_MAX_PIXELS", "3000")
    assert read_image(path).size == (60, 50)
    # Above Pillow's own limit, which follows; here both are small, so that little is decoded.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(reading, "MAX_PIXELS", 2000)
    assert read_image(path).size == (60, 50)
    for wrong in ("many", "0", "-5", "1e9", "²"):
        monkeypatch.setenv("SRDEF_MAX_PIXELS", wrong)
        with pytest.raises(InputError, match=f"SRDEF_MAX_PIXELS must be a whole number .* not '{wrong}'"):
            read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_a_header_that_promises_more_than_is_there(tmp_path, levels, kind):
    """With its end marker in place: JPEG's decoder would paint the rest grey and say nothing."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, kind)
    content = bytearray(file.getvalue())
    if kind == "JPEG":
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 3000, 3000)
    elif kind == "PNG":
        struct.pack_into(">II", content, 16, 3000, 3000)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    elif kind == "BMP":
        struct.pack_into("<ii", content, 18, 3000, 3000)
    else:
        entries, (count,) = 10, struct.unpack_from("<H", content, 8)
        for entry in range(entries, entries + 12 * count, 12):
            if struct.unpack_from("<H", content, entry)[0] in (256, 257):
                struct.pack_into("<HII", content, entry + 2, 4, 1, 3000)
    path = tmp_path / "promise.image"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"promise\.image: cannot be read, it may be damaged"):
        read_image(path)


def test_smooth_jpegs_are_not_taken_for_damaged(tmp_path):
    """The fewest bytes for the pixels: one grey, progressive, coarse."""
    path = saved(
        tmp_path / "flat.jpg", Image.new("L", (3000, 2000)), quality=1, progressive=True, optimize=True
    )
    assert path.stat().st_size < 6_000_000 / 200
    assert read_image(path).size == (3000, 2000)


def test_five_channels_in_a_file_are_one_clear_line(tmp_path):
    """A TIFF as microscopes write it; Pillow knows no mode for it."""
    fields = {256: 4, 257: 4, 258: 8, 262: 1, 273: 110, 277: 5, 278: 4, 279: 80}
    entries = b"".join(struct.pack("<HHII", field, 4, 1, value) for field, value in fields.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    path = tmp_path / "five.tif"
    path.write_bytes(header.ljust(110, b"\0") + bytes(80))
    with pytest.raises(InputError, match=r"five\.tif: not an image .* with 1 to 4 channels of 8 or 16 bits"):
        read_image(path)


def test_arrays_are_read_as_the_files_of_the_same_image(tmp_path):
    """Grey, grey and alpha, RGB, RGB and alpha in 8 bits; grey in 16."""
    rng = np.random.default_rng(3)
    deep = rng.integers(0, 65536, (6, 5), dtype=np.uint16)
    arrays = [rng.integers(0, 256, (6, 5, channels), dtype=np.uint8) for channels in (2, 3, 4)]
    for array in [*arrays, rng.integers(0, 256, (6, 5), dtype=np.uint8), deep]:
        file = read_image(saved(tmp_path / "a.png", array))
        np.testing.assert_array_equal(np.asarray(read_array(array, "it")), np.asarray(file))
    np.testing.assert_array_equal(read_array(deep[..., None], "it"), read_array(deep, "it"))
    np.testing.assert_array_equal(np.asarray(read_array(deep, "it"))[..., 2], deep >> 8)
    # Sixteen bits of RGB, which Pillow does not write.
    colours = rng.integers(0, 65536, (6, 5, 3), dtype=np.uint16)
    np.testing.assert_array_equal(np.asarray(read_array(colours, "it")), colours >> 8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "it: pixels of the type float32; only uint8 and uint16 are read"),
        (np.zeros((4, 4, 3), bool), "it: pixels of the type bool"),
        (np.zeros((4, 4, 3), np.int64), "it: pixels of the type int64"),
        (np.zeros((4, 4, 5), np.uint8), r"it: .* with 1 to 4 channels, not \(4, 4, 5\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"not \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"not \(4,\)"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(InputError, match=message):
        read_array(array, "it")


@pytest.mark.parametrize(("width", "height", "box"), [(100, 60, (25, 5, 75, 55)), (60, 101, (5, 26, 55, 76))])
def test_center_crop_is_the_efficientnet_one(width, height, box):
    """160 / (160 + 32) of the shorter side, 60, is 50; odd remainders are rounded up."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = np.asarray(image.crop(box).resize((160, 160), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_square(image, 160, "center"), expected)


@pytest.mark.parametrize("crop", ["center", "none"])
def test_an_image_of_the_size_is_taken_as_it_is(crop):
    """Of 32 pixels the crop would keep the half."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(to_square(Image.fromarray(pixels), 32, crop), pixels)


def test_without_crop_the_whole_image_is_resized():
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(to_square(image, 32, "none"), expected)
