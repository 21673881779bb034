"""Quilting: exact search, minimum-error boundary cut, patch banks."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sample_photographs import photograph

from srdef import datasets, defenses, images
from srdef.commands.benchmarks import numpy_defenses
from srdef.defenses import patch_bank, quilting
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
        np.testing.assert_array_equal(numpy_defenses.cheapest_path(error), path)
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


@pytest.mark.parametrize("size", [(23, 29), (20, 20)])
def test_equals_transcription(size):
    bank = small_bank(1500)
    image = photograph(5, *size)
    result = jax.jit(lambda d, x: d(x, KEY))(defenses.Quilting(bank), image)
    different = np.abs(np.asarray(result) - numpy_defenses.quilt(image, bank.patches, 2)) > 1e-5
    # Two patches may be equally near up to rounding, and two paths equally cheap.
    assert different.mean() < 0.01


def test_an_image_of_the_bank_comes_back():
    image = photograph(0, 20, 23)
    windows = np.lib.stride_tricks.sliding_window_view(images.to_uint8(image), (5, 5), axis=(0, 1))
    patches = windows.reshape(-1, 3, 5, 5).transpose(0, 2, 3, 1)
    bank = patch_bank._with_codes(patches, np.zeros(75, np.float32), np.eye(75, dtype=np.float32))
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


def test_a_bank_is_found_under_the_name_it_was_saved_under(tmp_path):
    small_bank(20).save(tmp_path / "bank.5x5")
    assert [path.name for path in tmp_path.iterdir()] == ["bank.5x5.npz"]
    assert len(defenses.load_bank(tmp_path / "bank.5x5").patches) == 20
    assert len(defenses.load_bank(str(tmp_path / "bank.5x5.npz")).patches) == 20


def test_saving_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "bank.npz"
    small_bank(20).save(path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*bank\.npz \(No space left on device\)"):
        small_bank(40).save(path)
    assert path.read_bytes() == before
    with pytest.raises(InputError, match=r"cannot write .*bank\.npz \(No such file or directory\)"):
        small_bank(20).save(tmp_path / "nowhere" / "bank.npz")


def test_damaged_archives(tmp_path):
    """Wherever it is cut or changed, one line that names the file, or the same bank."""
    path = tmp_path / "bank.npz"
    bank = small_bank(50)
    with path.open("wb") as file:
        np.savez_compressed(file, patches=bank.patches, mean=bank.mean, components=bank.components)
    whole = path.read_bytes()
    refused = []
    for cut in range(0, len(whole), 97):
        for content in (whole[:cut], whole[:cut] + bytes(60) + whole[cut + 60 :]):
            path.write_bytes(content)
            try:
                found = defenses.load_bank(path)
            except InputError as error:
                refused.append(str(error))
            else:
                np.testing.assert_array_equal(found.patches, bank.patches)
    assert len(refused) > 50
    assert all(str(path) in message and "\n" not in message for message in refused)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patches": np.zeros((9, 5, 5, 3), np.float32)}, r"patches are float32 \(9, 5, 5, 3\), not uint8"),
        ({"patches": np.zeros((9, 5, 4, 3), np.uint8)}, "not uint8 .P, size, size, 3"),
        ({"patches": np.zeros(9, np.uint8)}, "not uint8 .P, size, size, 3"),
        ({"patches": np.zeros((0, 5, 5, 3), np.uint8)}, "none or below 2x2"),
        ({"mean": np.zeros(74, np.float32)}, r"mean has the shape \(74,\), not \(75,\)"),
        ({"mean": np.full(75, np.nan, np.float32)}, "mean must be finite"),
        ({"components": np.eye(75, dtype=np.complex64)}, "components must be finite float32"),
        ({"components": np.zeros((75, 0), np.float32)}, "components have the shape"),
        ({"components": np.zeros((74, 3), np.float32)}, "components have the shape"),
    ],
)
def test_impossible_arrays(tmp_path, change, words):
    bank = small_bank(20)
    arrays = {"patches": bank.patches, "mean": bank.mean, "components": bank.components}
    np.savez(tmp_path / "bank.npz", **{**arrays, **change})
    with pytest.raises(InputError, match=rf"bank\.npz is no patch bank: .*{words}"):
        defenses.load_bank(tmp_path / "bank.npz")


def test_bank_from_folder(tmp_path):
    for index in range(3):
        Image.fromarray(images.to_uint8(photograph(index, 20, 24))).save(tmp_path / f"{index}.png")
    (tmp_path / "labels.csv").write_text("not an image")
    (tmp_path / "more").mkdir()
    Image.new("RGBA", (6, 6), (0, 0, 0, 0)).save(tmp_path / "more/clear.png")  # shown on white
    bank = defenses.bank_from_folder(tmp_path, 80, seed=1)
    assert bank.patches.shape == (80, 5, 5, 3)
    assert (bank.patches[60:] == 255).all()
    np.testing.assert_array_equal(defenses.bank_from_folder(tmp_path, 80, seed=1).patches, bank.patches)
    assert defenses.bank_from_folder(tmp_path, 10, pattern="0*").patches.shape[0] == 10


def test_bank_from_plain_data():
    specification = {"dataset": {"name": "imagenet_samples", "size": 48, "limit": 3}, "count": 90}
    samples = images.to_uint8(datasets.load("imagenet_samples", size=48, limit=3).images)
    created = defenses.create("quilting", bank=specification)
    np.testing.assert_array_equal(created.bank.patches, defenses.build_bank(samples, 90).patches)


@pytest.mark.parametrize(
    ("bank", "words"),
    [
        ({"dataset": {"name": "imagenet_samples"}, "count": 9}, "name and size"),
        ({"dataset": {"name": "imagenet_samples", "size": 48}}, "dataset and count"),
        ({"dataset": {"name": "samples", "size": 48}, "count": 9}, "imagenet_samples"),
        ({"folder": "x", "count": 9}, "unknown field 'folder'"),
    ],
)
def test_bad_plain_data(bank, words):
    with pytest.raises(InputError, match=words):
        defenses.create("quilting_tvm", bank=bank)


def test_bad_input(tmp_path):
    with pytest.raises(InputError, match="no file"):
        defenses.create("quilting", bank=tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no patch bank"):
        defenses.create("quilting", bank=tmp_path / "bad.npz")
    with pytest.raises(InputError, match="none does not exist"):
        defenses.bank_from_folder(tmp_path / "none", 10)
    with pytest.raises(InputError, match="no image"):
        defenses.bank_from_folder(tmp_path, 10, pattern="*.jpg")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 20)
    with pytest.raises(InputError, match=r"cut\.png: "):
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


_EIGHT_DEVICES = """
import jax, numpy as np
from srdef import batching, defenses
from srdef.defenses.base import _defend_batch

images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
quilting = defenses.Quilting(defenses.build_bank(images, 50))
rows = (np.zeros((1, 16, 16, 3), np.float32), np.zeros(1, np.int32))
given = batching.abstract((quilting, jax.random.key(0)), rows, 16, batching.data_mesh())
assert len(jax.devices()) == 8
assert "all-gather" not in _defend_batch.lower(*given).compile().as_text()
"""


@pytest.mark.slow
def test_devices_do_not_wait_for_one_another():
    environment = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", _EIGHT_DEVICES], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
