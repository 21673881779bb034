"""Quilting: exact search, minimum-error boundary cut, patch banks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sample_photographs import photograph

from srdef import defenses, images
from srdef.defenses import quilting
from srdef.errors import InputError

KEY = jax.random.key(0)


def small_bank(count=6000, **options):
    sources = [images.to_uint8(photograph(index, 64, 64)) for index in range(4)]
    return defenses.build_bank(sources, count, **options)


def path_cost(error, path):
    return sum(error[row, column] for row, column in enumerate(path))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundary_cut_is_the_cheapest_path(width):
    rng = np.random.default_rng(width)
    for _ in range(5):
        error = rng.random((5, width))
        path = [int(column) for column in quilting.boundary_cut(jnp.asarray(error))]
        paths = [
            p
            for p in itertools.product(range(width), repeat=5)
            if all(abs(a - b) <= 1 for a, b in itertools.pairwise(p))
        ]
        assert tuple(path) in paths
        np.testing.assert_allclose(path_cost(error, path), min(path_cost(error, p) for p in paths))


@pytest.mark.parametrize("count", [1, 3])
def test_search_is_exact(count):
    bank = small_bank()  # more than one chunk
    assert len(bank.patches) > quilting._CHUNK
    queries = np.random.default_rng(1).random((40, 75)).astype(np.float32)
    numbers = quilting.nearest_patches(bank, jnp.asarray(queries), count)
    flat = np.asarray(bank.patches).reshape(-1, 75) / 255.0
    distances = ((queries[:, None] - flat[None]) ** 2).sum(axis=-1)
    found = np.take_along_axis(distances, np.asarray(numbers), axis=1)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :count], rtol=1e-5)


def transcription(image, bank, overlap):
    """Raster order, nearest patch of the bank, cut through the overlaps with what already lies there."""
    size = bank.patch_size
    stride = size - overlap
    flat = np.asarray(bank.patches).reshape(len(bank.patches), -1) / 255.0
    rows, columns = (-(-(side - overlap) // stride) for side in image.shape[:2])
    beyond = [
        (0, count * stride + overlap - side)
        for count, side in zip((rows, columns), image.shape[:2], strict=True)
    ]
    padded = np.pad(image.astype(np.float64), [*beyond, (0, 0)], mode="edge")
    canvas = np.zeros_like(padded)
    for y in range(0, rows * stride, stride):
        for x in range(0, columns * stride, stride):
            query = padded[y : y + size, x : x + size].ravel()
            patch = flat[((flat - query) ** 2).sum(axis=1).argmin()].reshape(size, size, 3)
            old = canvas[y : y + size, x : x + size]
            error = ((old - patch) ** 2).sum(axis=-1)
            take = np.ones((size, size), bool)
            if x > 0:
                take &= cheapest(error[:, :overlap], size)
            if y > 0:
                take &= cheapest(error[:overlap].T, size).T
            canvas[y : y + size, x : x + size][take] = patch[take]
    return canvas[: image.shape[0], : image.shape[1]]


def cheapest(error, size):
    """True from the cheapest path on, tried one by one."""
    width = error.shape[1]
    paths = [
        p
        for p in itertools.product(range(width), repeat=size)
        if all(abs(a - b) <= 1 for a, b in itertools.pairwise(p))
    ]
    path = min(paths, key=lambda p: path_cost(error, p))
    return np.arange(size)[None, :] >= np.array(path)[:, None]


@pytest.mark.parametrize("size", [(23, 29), (20, 20)])
def test_equals_transcription(size):
    bank = small_bank(1500)
    image = photograph(5, *size)
    result = jax.jit(lambda d, x: d(x, KEY))(defenses.Quilting(bank), image)
    different = np.abs(np.asarray(result) - transcription(image, bank, 2)) > 1e-5
    # Two patches may be equally near up to rounding, and two paths equally cheap.
    assert different.mean() < 0.01


def test_an_image_of_the_bank_comes_back():
    image = photograph(0, 20, 23)
    windows = np.lib.stride_tricks.sliding_window_view(images.to_uint8(image), (5, 5), axis=(0, 1))
    patches = windows.reshape(-1, 3, 5, 5).transpose(0, 2, 3, 1)
    bank = quilting._with_codes(patches, np.zeros(75, np.float32), np.eye(75, dtype=np.float32))
    result = defenses.Quilting(bank)(jnp.asarray(image), KEY)
    # All of it but the margin, whose padding is in no patch.
    np.testing.assert_allclose(result[:18, :18], image[:18, :18], atol=1e-6)


def test_neighbours_are_drawn():
    bank = small_bank(500)
    image = jnp.asarray(photograph(5, 20, 20))
    defense = defenses.Quilting(bank, neighbours=10)
    assert defense.random
    assert (defense(image, KEY) != defense(image, jax.random.key(1))).any()


def test_principal_components_find_almost_the_nearest():
    exact, reduced = small_bank(3000), small_bank(3000, principal_components=20)
    assert reduced.codes.shape[1] == 20
    queries = np.asarray(exact.patches)[::30].reshape(-1, 75).astype(np.float32) / 255
    numbers = np.asarray(quilting.nearest_patches(reduced, jnp.asarray(queries), 1))[:, 0]
    found = np.asarray(exact.patches)[numbers].reshape(-1, 75) / 255.0
    assert np.mean((found - queries) ** 2) < 1e-4


def test_save_and_load(tmp_path):
    bank = small_bank(200, principal_components=10)
    bank.save(tmp_path / "bank.npz")
    loaded = defenses.load_bank(tmp_path / "bank.npz")
    for name in ("patches", "codes", "mean", "components"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(bank, name))
    created = defenses.create("quilting", bank=str(tmp_path / "bank.npz"))
    assert created.bank.patch_size == 5


def test_bank_from_folder(tmp_path):
    for index in range(3):
        Image.fromarray(images.to_uint8(photograph(index, 20, 24))).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("not an image")
    bank = defenses.bank_from_folder(tmp_path, 90, seed=1)
    assert bank.patches.shape == (90, 5, 5, 3)
    np.testing.assert_array_equal(defenses.bank_from_folder(tmp_path, 90, seed=1).patches, bank.patches)
    assert defenses.bank_from_folder(tmp_path, 10, pattern="0*").patches.shape[0] == 10


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="no file"):
        defenses.create("quilting", bank=tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no patch bank"):
        defenses.create("quilting", bank=tmp_path / "bad.npz")
    with pytest.raises(InputError, match="not a folder"):
        defenses.bank_from_folder(tmp_path / "none", 10)
    with pytest.raises(InputError, match="no image"):
        defenses.bank_from_folder(tmp_path, 10, pattern="*.jpg")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    with pytest.raises(InputError):
        defenses.bank_from_folder(tmp_path, 10, pattern="cut.png")
    with pytest.raises(InputError, match="pixels along each side"):
        defenses.build_bank([np.zeros((3, 9, 3), np.uint8)], 10)
    with pytest.raises(InputError, match="principal_components"):
        small_bank(10, principal_components=76)
    with pytest.raises(InputError, match="neighbours"):
        defenses.create("quilting", bank=small_bank(20), neighbours=0)
    image = jnp.zeros((9, 9, 3))
    with pytest.raises(InputError, match="overlap"):
        defenses.create("quilting", bank=small_bank(20), overlap=5)(image, KEY)
    with pytest.raises(InputError, match="neighbours"):
        defenses.create("quilting", bank=small_bank(20), neighbours=21)(image, KEY)
