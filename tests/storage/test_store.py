import errno
import json
import multiprocessing
import os
import re
import resource
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from matplotlib.figure import Figure

from srdef.errors import InputError, SrdefWarning
from srdef.storage import files, fingerprint, store

FIELDS = {"images": ((2, 2, 3), np.uint8), "l2": ((), np.float32)}


def open_store(folder, manifest=None, count=7, batch_size=3, label="FGSM-2"):
    return store.BatchStore(folder, label, manifest or {"seed": 0}, FIELDS, count, batch_size)


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


def test_another_label_finds_what_is_there(tmp_path):
    first = open_store(tmp_path)
    fill(first, slice(3, 6))
    (tmp_path / f"A-{first.digest}").write_text("no folder")
    assert open_store(tmp_path, label="FGSM, two levels").path == first.path
    # Two folders of the same, as runs leave that begin at the same moment: each label has its own.
    other = first.path.with_name(f"FGSM-{first.digest}")
    other.mkdir()
    assert open_store(tmp_path, label="FGSM").path == other
    assert open_store(tmp_path).path == first.path


def test_the_manifest_says_what_is_there(tmp_path):
    manifest = json.loads((open_store(tmp_path).path / "manifest.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["count"] == 7


def filled(folder):
    batches = open_store(folder)
    for rows in batches.missing():
        fill(batches, rows)
    return batches


def flip(content):
    """The same length, which only the checksum tells: one bit of the last byte of zlib's."""
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("field", ["images", "l2"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "longer", "folder"])
def test_a_batch_whose_file_is_not_as_it_was_written_is_missing(tmp_path, field, damage):
    """Not zeros: also of a batch of zeros, of the first image, and of the last batch, which is not full."""
    chunk = {"images": ".0.0.0", "l2": ""}[field]
    for batch, rows in enumerate([slice(0, 3), slice(3, 6), slice(6, 7)]):
        path = filled(tmp_path).path / field / f"{batch}{chunk}"
        content = path.read_bytes()
        path.unlink()
        if damage == "folder":
            path.mkdir()
        elif damage != "missing":
            path.write_bytes({"truncated": content[:-1], "empty": b"", "longer": content + b"0"}[damage])
        again = open_store(tmp_path)
        assert again.missing() == [rows]
        assert again.damaged == [rows]
        if damage == "folder":
            with pytest.raises(InputError, match=f"cannot write to {again.path} .*directory"):
                fill(again, rows)
            path.rmdir()
        fill(again, rows)
        assert path.read_bytes() == content
        assert again.missing() == again.damaged == []
        np.testing.assert_array_equal(again.read("l2"), np.arange(7))


def test_a_batch_that_was_never_done_is_not_damaged(tmp_path):
    batches = open_store(tmp_path)
    fill(batches, slice(3, 6))
    assert len(batches.missing()) == 2
    assert batches.damaged == []


def test_a_file_that_cannot_be_decoded_is_named_and_missing_from_then_on(tmp_path):
    path = filled(tmp_path).path / "images" / "1.0.0.0"
    content = path.read_bytes()
    path.write_bytes(flip(content))
    for read in (lambda found: found.read("images"), lambda found: found.read_rows("images", slice(3, 6))):
        path.write_bytes(flip(content))
        again = filled(tmp_path)
        path.write_bytes(flip(content))
        with pytest.raises(
            InputError, match=r"cannot read .*next run computes again .*images/1\.0\.0\.0"
        ) as caught:
            read(again)
        assert "\n" not in str(caught.value)
        assert open_store(tmp_path).missing() == [slice(3, 6)]
    fill(again, slice(3, 6))
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [lambda _: b"", lambda content: content[:5], flip])
def test_damaged_sizes_are_batches_that_are_missing(tmp_path, damage):
    size = filled(tmp_path).path / "sizes" / "1"
    size.write_bytes(damage(size.read_bytes()))
    again = open_store(tmp_path)
    assert again.missing() == [slice(3, 6)]
    fill(again, slice(3, 6))
    assert open_store(tmp_path).missing() == []


@pytest.mark.parametrize("field", ["images", "sizes"])
def test_damaged_metadata_are_made_again(tmp_path, field):
    """Everything in them is known; the batches are still there."""
    path = filled(tmp_path).path / field / ".zarray"
    for content in (None, b"", b'{"chunks": [3'):
        path.unlink() if content is None else path.write_bytes(content)
        again = open_store(tmp_path)
        assert again.missing() == []
        np.testing.assert_array_equal(again.read("images")[:, 0, 0, 0], [0, 0, 0, 3, 3, 3, 6])


def test_a_damaged_manifest_is_written_again(tmp_path):
    path = open_store(tmp_path).path / "manifest.json"
    content = path.read_text()
    path.write_text("")
    open_store(tmp_path)
    assert path.read_text() == content


def test_arrays_that_cannot_be_opened(tmp_path):
    path = open_store(tmp_path).path / "l2"
    (path / ".zarray").unlink()
    path.rmdir()
    path.touch()
    with pytest.raises(InputError, match=f"cannot open {path} .*Not a directory") as caught:
        open_store(tmp_path)
    assert len(str(caught.value)) < 500


def _fill_a_small_disk(folder, results):
    """No file may become longer than 100 bytes: what a full disk is to one writer."""
    batches = open_store(folder)
    rows = slice(0, 3)
    noise = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), np.uint8)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
    try:
        batches.write(rows, images=noise, l2=np.zeros(3, np.float32))
    except InputError as error:
        results.put(str(error))


def test_a_full_disk_is_one_line_and_the_batch_stays_missing(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_fill_a_small_disk, args=(tmp_path, results))
    process.start()
    message = results.get(timeout=60)
    process.join()
    path = open_store(tmp_path).path
    assert message.startswith(f"cannot write to {path} (")
    assert f"{path}/images/0.0.0.0" in message
    assert "File too large" in message
    assert "\n" not in message
    again = open_store(tmp_path)
    assert again.missing()[0] == slice(0, 3)
    assert again.damaged == []
    fill(again, slice(0, 3))
    assert len(again.missing()) == 2


def test_read_array_reads_no_zeros_where_nothing_is(tmp_path):
    """What a report reads from the store of a run."""
    path = filled(tmp_path).path / "images"
    np.testing.assert_array_equal(store.read_array(path, slice(2, 4))[:, 0, 0, 0], [0, 3])
    (path / "0.0.0.0").unlink()
    with pytest.raises(InputError, match=r"cannot read .*images/0\.0\.0\.0.* is missing"):
        store.read_array(path, slice(2, 4))


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


def test_replacing_keeps_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")

    def killed():
        with files.replacing(path) as unfinished:
            unfinished.write_text("tw")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_text() == "one"
    with files.replacing(path) as unfinished:
        unfinished.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "folder", "Is a directory"),
        (tmp_path / "none" / "a.txt", "No such file or directory"),
        (tmp_path / "file" / "a.txt", "Not a directory"),
        (tmp_path / ("a" * 300), "File name too long"),
        (Path("/"), "not the name of a file"),
    ):
        with pytest.raises(InputError, match=re.escape(f"cannot write {path} ({reason})")):
            files.write_atomically(path, "text")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    files.save_figure(Figure(), path, dpi=50)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full_disk(self, unfinished, **options):
        unfinished.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(InputError, match=r"cannot write .*a\.png \(no space left on device\)"):
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


def _open_and_fill(folder, index, ready):
    ready.wait(60)
    for turn in range(20):
        batches = open_store(folder / str(turn), count=30)
        for rows in batches.missing():
            if rows.start // 3 % 3 == index:
                fill(batches, rows)


def test_processes_write_to_one_store_at_once(tmp_path):
    """All make it at the same moment, also where its metadata were damaged; each writes its own batches."""
    for turn in range(0, 20, 2):
        (open_store(tmp_path / str(turn), count=30).path / "l2" / ".zarray").write_bytes(b"{")
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(3)
    processes = [context.Process(target=_open_and_fill, args=(tmp_path, i, ready)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for turn in range(20):
        batches = open_store(tmp_path / str(turn), count=30)
        assert batches.missing() == []
        assert batches.done(slice(3, 6))
        np.testing.assert_array_equal(batches.read("l2"), np.arange(30))
        (batches.path / "l2" / "1").unlink()
        assert not batches.done(slice(3, 6))
        assert [path for path in batches.path.rglob("*") if path.suffix in (".part", ".__lock")] == []


def test_what_killed_runs_left_is_removed_at_the_next_start(tmp_path):
    kept = filled(tmp_path / "store").path
    for left in (
        tmp_path / ".table.json.123.part",
        tmp_path / ".table.md.01ab23cd.part",
        kept / "images/.zarray.__lock",
        kept / ".manifest.json.7.part",
        kept / "images/1.0.0.0.__lock",
    ):
        left.write_bytes(b"half")
    for own in ("notes.part", ".config", ".movie.part", "poem.__lock"):
        (tmp_path / own).write_text("the user's")
    with store.exclusive(tmp_path):
        left = {path.name for path in tmp_path.rglob("*") if path.suffix == ".part" or "__lock" in path.name}
    assert left == {"notes.part", ".movie.part", "poem.__lock"}
    assert (tmp_path / ".config").exists()
    assert open_store(tmp_path / "store").missing() == []


def test_a_workdir_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write to workdir"),
        store.exclusive(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    """As Lustre is often mounted: the run goes on, with a warning, and deletes nothing of others."""

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    half = tmp_path / ".table.md.01ab23cd.part"
    half.write_text("half")
    with (
        pytest.warns(SrdefWarning, match=rf"has no locks \({os.strerror(code)}\): see to it that no other"),
        store.exclusive(tmp_path),
    ):
        assert half.exists()


def test_a_lock_that_fails_otherwise_is_one_line(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(InputError, match=r"cannot lock .*: Input/output error"):
        store.exclusive(tmp_path).__enter__()


def test_what_another_run_writes_in_a_folder_below_stays(tmp_path):
    with store.exclusive(tmp_path / "other"):
        with files.replacing(tmp_path / "other" / "table.md") as unfinished:
            unfinished.write_text("whole")
            with store.exclusive(tmp_path):
                assert unfinished.exists()
        assert (tmp_path / "other" / "table.md").read_text() == "whole"
