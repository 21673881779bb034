import json
import multiprocessing

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from matplotlib.figure import Figure

from srdef.errors import InputError
from srdef.storage import files, fingerprint, store

FIELDS = {"images": ((2, 2, 3), np.uint8), "l2": ((), np.float32)}


def open_store(folder, manifest=None, count=7, batch_size=3):
    return store.BatchStore(folder, "FGSM-2", manifest or {"seed": 0}, FIELDS, count, batch_size)


def fill(batches, rows):
    count = rows.stop - rows.start
    batches.write(
        rows,
        images=np.full((count, 2, 2, 3), rows.start, np.uint8),
        l2=np.arange(rows.start, rows.stop, dtype=np.float32),
    )


def test_continues_where_it_was(tmp_path):
    first = open_store(tmp_path)
    assert first.missing() == [slice(0, 3), slice(3, 6), slice(6, 7)]
    fill(first, slice(3, 6))
    second = open_store(tmp_path)
    assert second.missing() == [slice(0, 3), slice(6, 7)]
    for rows in second.missing():
        fill(second, rows)
    third = open_store(tmp_path)
    assert third.missing() == []
    np.testing.assert_array_equal(third.read("l2"), np.arange(7))
    np.testing.assert_array_equal(third.read("images")[:, 0, 0, 0], [0, 0, 0, 3, 3, 3, 6])
    np.testing.assert_array_equal(third.read_rows("l2", slice(3, 6)), [3, 4, 5])


def test_reading_an_unfinished_store_is_refused(tmp_path):
    batches = open_store(tmp_path)
    fill(batches, slice(0, 3))
    with pytest.raises(RuntimeError, match="not complete"):
        batches.read("l2")


@pytest.mark.parametrize("change", [{"manifest": {"seed": 1}}, {"count": 8}, {"batch_size": 4}])
def test_a_change_finds_another_folder(tmp_path, change):
    first = open_store(tmp_path)
    for rows in first.missing():
        fill(first, rows)
    other = open_store(tmp_path, **change)
    assert other.path != first.path
    assert other.missing()
    assert open_store(tmp_path).missing() == []


def test_the_manifest_says_what_is_there(tmp_path):
    manifest = json.loads((open_store(tmp_path).path / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["count"] == 7


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        open_store(tmp_path / "file")


@struct.dataclass
class Numbers:
    epsilon: float
    steps: int = struct.field(pytree_node=False, default=1)


@struct.dataclass
class Holder:
    network: nnx.Module


def test_digest_sees_every_number():
    network = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    digests = {
        fingerprint.digest(tree)
        for tree in [
            Numbers(0.1),
            Numbers(0.2),
            Numbers(np.float32(0.1)),
            Numbers(0.1, steps=2),
            nnx.Linear(2, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)),
            network,
            nnx.Linear(2, 3, rngs=nnx.Rngs(1)),
            Holder(network),
            {"a": jnp.zeros(3)},
            {"b": jnp.zeros(3)},
            {"a": jnp.zeros((3, 1))},
        ]
    }
    assert len(digests) == 11
    assert fingerprint.digest(Numbers(0.1)) == fingerprint.digest(Numbers(0.1))
    network.kernel[...] = network.kernel[...].at[1, 2].add(1e-6)
    assert fingerprint.digest(Holder(network)) not in digests


def test_atomic_write_leaves_no_other_file(tmp_path):
    files.write_atomically(tmp_path / "a.txt", "one")
    files.write_atomically(tmp_path / "a.txt", b"two")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    files.save_figure(Figure(), path, dpi=50)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full_disk(self, unfinished, **options):
        unfinished.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.save_figure(Figure(), path, dpi=50)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(InputError, match=r"must end in .png, .pdf or .svg, not 'a'"):
        files.save_figure(Figure(), tmp_path / "a", dpi=50)


def _hold(folder, ready, release):
    with store.exclusive(folder):
        ready.set()
        release.wait(30)


def test_a_second_run_is_refused(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, release))
    process.start()
    try:
        assert ready.wait(60)
        with (
            pytest.raises(InputError, match=f"in use by another run \\(process {process.pid}\\)"),
            store.exclusive(tmp_path),
        ):
            pass
    finally:
        release.set()
        process.join()
    with store.exclusive(tmp_path):
        pass


def test_a_workdir_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write to workdir"),
        store.exclusive(tmp_path / "file" / "run"),
    ):
        pass
