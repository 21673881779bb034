"""A damaged checkpoint is noticed, whatever is wrong with it, and the one before is taken."""

import json
import multiprocessing
import resource
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from srdef.errors import InputError
from srdef.training.checkpoints import Checkpoints


def state_of(step):
    """Arrays that do not compress to nothing, one of them larger than what is stored inline."""
    values = np.random.default_rng(step).normal(size=(40, 50)).astype(np.float32)
    return {"large": jnp.asarray(values), "small": jnp.float32(step), "none": {}}


def same(found, step):
    wanted = state_of(step)
    return all(np.array_equal(found[name], wanted[name]) for name in ("large", "small"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    with Checkpoints(folder) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state_of(step))
    return folder


@pytest.fixture
def workdir(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def files_of(workdir, step):
    return sorted(path for path in (workdir / f"checkpoints/{step}").rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def restore(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(state_of(0))


@pytest.mark.filterwarnings("error")
def test_two_are_kept_and_the_newest_is_restored(workdir):
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["20", "30"]
    assert set(json.loads((workdir / "checkpoints.json").read_text())) == {"20", "30"}
    step, found = restore(workdir)
    assert step == 30
    assert same(found, 30)


@pytest.mark.filterwarnings("error")
def _fill_a_small_disk(workdir, results):
    """No file may become longer than 1000 bytes, which the state does not fit into."""
    with Checkpoints(workdir) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            checkpoints.save(40, state_of(40))
        except InputError as error:
            results.put(str(error))


def test_a_full_disk_is_one_line_and_the_others_stay(workdir):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_fill_a_small_disk, args=(workdir, results))
    process.start()
    message = results.get(timeout=120)
    process.join()
    assert message.startswith(f"cannot write a checkpoint to {workdir / 'checkpoints'} (")
    assert "File too large" in message
    step, found = restore(workdir)
    assert step == 30
    assert same(found, 30)


def test_without_checkpoints_the_state_stays(tmp_path):
    state = state_of(0)
    with Checkpoints(tmp_path) as checkpoints:
        assert not checkpoints.any()
        assert checkpoints.restore(state) == (0, state)


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.unlink()])
def test_any_damaged_file_makes_it_the_one_before(workdir, damage, recwarn):
    """Also the flipped bit of an array, which orbax reads as other weights."""
    kept = workdir.with_name("kept")
    shutil.copytree(workdir, kept)
    for file in files_of(workdir, 30):
        recwarn.clear()
        damage(file)
        step, found = restore(workdir)
        assert step == 20
        assert same(found, 20)
        (warning,) = [str(w.message) for w in recwarn if "the checkpoint of step 30 in" in str(w.message)]
        assert f"{file.relative_to(workdir / 'checkpoints')} is " in warning
        assert "going on from the one of step 20" in warning
        shutil.copyfile(kept / file.relative_to(workdir), file)
    assert restore(workdir)[0] == 30


def test_a_checkpoint_whose_folder_is_gone(workdir):
    shutil.rmtree(workdir / "checkpoints/30")
    with pytest.warns(UserWarning, match=r"step 30 .* \(it is missing\); going on from the one of step 20"):
        assert restore(workdir)[0] == 20


def test_training_goes_on_after_a_damaged_one_and_writes_it_again(workdir):
    """At the same number, and at one before it, which orbax alone would delete at once."""
    cut(files_of(workdir, 30)[-1])
    with Checkpoints(workdir) as checkpoints, pytest.warns(UserWarning, match="step 30"):
        assert checkpoints.restore(state_of(0))[0] == 20
    assert (workdir / "checkpoints/30").is_dir()  # looking deletes nothing
    with Checkpoints(workdir) as checkpoints:
        with pytest.warns(UserWarning, match="step 30"):
            checkpoints.restore(state_of(0))
        for step in (25, 30):
            checkpoints.save(step, state_of(step))
    step, found = restore(workdir)
    assert step == 30
    assert same(found, 30)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["25", "30"]


def test_when_all_are_damaged_nothing_is_deleted_and_one_line_says_so(workdir):
    for step in (20, 30):
        cut(files_of(workdir, step)[-1])
    before = [path.name for path in files_of(workdir, 20)]
    with pytest.raises(
        InputError, match=r"step 30 .*cannot be used .*no other can: delete .*checkpoints"
    ) as caught:
        restore(workdir)
    assert "\n" not in str(caught.value)
    assert [path.name for path in files_of(workdir, 20)] == before


def test_checkpoints_of_another_state_are_one_line(workdir):
    with Checkpoints(workdir) as checkpoints, pytest.raises(InputError, match="cannot be used") as caught:
        checkpoints.restore({"another": jnp.zeros(3)})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [None, b"", b"[1]", b'{"30": 3}', b'{"30": {}, "20": {}}', b"\xff"])
def test_lost_hashes_are_no_damage(workdir, content):
    """They are also missing beside checkpoints that an older version has written; damaged ones are named."""
    path = workdir / "checkpoints.json"
    path.unlink() if content is None else path.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert restore(workdir)[0] == 30
    named = [f"{path} is damaged: whether the checkpoints are as they were written is not known"]
    assert [str(w.message) for w in told if "checkpoints.json" in str(w.message)] == named * (
        content is not None
    )
    (workdir / "checkpoints/30/default/_METADATA").write_bytes(b"{")  # then orbax finds what it finds
    with pytest.warns(UserWarning, match="step 30"):
        assert restore(workdir)[0] == 20


def test_threads_save_side_by_side(tmp_path):
    """Each training of a study has a thread on a large machine."""

    def save(thread):
        for run in range(4):
            with Checkpoints(tmp_path / f"{thread}-{run}") as checkpoints:
                checkpoints.save(1, state_of(thread))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(save, range(3)))
    for thread in range(3):
        with Checkpoints(tmp_path / f"{thread}-3") as checkpoints:
            step, found = checkpoints.restore(state_of(0))
        assert step == 1
        assert same(found, thread)
