import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs.train_edsr import get_config
from srdef import memory, models
from srdef.errors import InputError, SrdefWarning
from srdef.images import from_uint8
from srdef.storage.fingerprint import digest
from srdef.training import export, patches, quality, super_resolution


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two smooth images: blurred noise, which a network can learn to sharpen."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i, size in enumerate([(70, 90), (64, 64)]):
        noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def tiny(folder, **changes):
    config = get_config("small_x2")
    config.update(
        {
            "train_folder": str(folder),
            "validation_folder": str(folder),
            "patch": 12,
            "batch_size": 4,
            "steps": 30,
            "warmup_steps": 2,
            "log_every": 10,
            "evaluate_every": 10,
            "checkpoint_every": 10,
            **changes,
        }
    )
    return config


def network():
    return models.create("edsr", blocks=1, features=8, rgb_range=2.0, seed=0)


def test_training_improves_and_is_logged(folder, tmp_path):
    config = tiny(folder, steps=200, evaluate_every=100, log_every=100)
    before = quality.evaluate_psnr(network(), patches.read_folder(folder))
    trained = super_resolution.train(network(), config, tmp_path)
    after = quality.evaluate_psnr(trained, patches.read_folder(folder))
    assert after > before + 6
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [100, 200]
    assert records[-1]["psnr"] == pytest.approx(after, abs=1e-3)


def test_a_batch_that_does_not_fit_is_said_before_the_first_step(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_on_host", lambda: 1000)
    words = r"batches of 4 patches need about .* of memory, and less than 1 MB are free; smaller patches"
    with pytest.warns(SrdefWarning, match=words):
        super_resolution.train(network(), tiny(folder, steps=3), tmp_path)
    assert super_resolution.read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == 3


@pytest.mark.parametrize("crop", ["device", "host"])
def test_a_batch_that_can_never_fit_is_refused(folder, tmp_path, crop):
    words = rf"^batch_size={10**12} can never fit: the patches of one batch alone are [\d.]+ GB, and this "
    with pytest.raises(InputError, match=words):
        super_resolution.train(network(), tiny(folder, batch_size=10**12, crop=crop), tmp_path)


def test_the_validation_reads_what_is_held_out(folder, tmp_path, monkeypatch):
    read = []

    def record(folder, held_out=False):
        read.append((folder, held_out))
        return patches.read_folder(tmp_path.parent / "none" if folder == "tfds:x" else folder)

    monkeypatch.setattr(super_resolution, "read_folder", record)
    with pytest.raises(InputError):  # before anything is trained
        super_resolution.train(network(), tiny(folder, validation_folder="tfds:x"), tmp_path)
    assert read == [(str(folder), False), ("tfds:x", True)]


class Killed(Exception):
    pass


def test_a_killed_run_continues_bit_for_bit(folder, tmp_path):
    config = tiny(folder)
    whole = super_resolution.train(network(), config, tmp_path / "whole")

    def kill(record):
        if record["step"] == 15:
            raise Killed

    with pytest.raises(Killed):
        super_resolution.train(network(), tiny(folder, log_every=5), tmp_path / "killed", kill)
    steps = []
    continued = super_resolution.train(
        network(), config, tmp_path / "killed", lambda record: steps.append(record["step"])
    )
    assert steps == [20, 30]  # it did start from the checkpoint of step 10
    assert digest(continued) == digest(whole)
    logs = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "killed")]
    last = [json.loads(log[-1]) for log in logs]
    assert last[0]["loss"] == last[1]["loss"]
    # The record of step 15, after the last checkpoint, is not there twice nor left over.
    assert [json.loads(line)["step"] for line in logs[1]] == [5, 10, 20, 30]


def test_a_damaged_newest_checkpoint_gives_the_same_weights_from_the_one_before(folder, tmp_path):
    whole = super_resolution.train(network(), tiny(folder), tmp_path)
    log = (tmp_path / "metrics.jsonl").read_text()
    data = max((tmp_path / "checkpoints/30/default").rglob("*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-50])
    with pytest.warns(UserWarning, match=r"checkpoint of step 30 in .*; going on from the one of step 20"):
        again = super_resolution.train(network(), tiny(folder), tmp_path)
    assert digest(again) == digest(whole)
    logs = (log, (tmp_path / "metrics.jsonl").read_text())
    found = [[(r["step"], r["loss"]) for r in map(json.loads, text.splitlines())] for text in logs]
    assert found[0] == found[1]
    assert [step for step, _ in found[1]] == [10, 20, 30]


def test_a_training_of_more_steps_is_not_one_of_fewer(folder, tmp_path):
    """A part of one is: that is how the time is planned."""
    super_resolution.train(network(), tiny(folder, steps=6, log_every=3), tmp_path)
    super_resolution.train(network(), tiny(folder, steps=6, log_every=3), tmp_path, until=3)
    with pytest.raises(InputError, match="holds a training of 6 steps, and 4 are asked for"):
        super_resolution.train(network(), tiny(folder, steps=4, log_every=3), tmp_path)


def test_a_damaged_log_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert super_resolution.read_metrics(path) == []
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert super_resolution.read_metrics(path) == [{"step": 1, "loss": 2.0}]  # where a killed run stopped
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo\n\0\0\xff\n3\n{"step": "4"}\n{"step": 5}\n{"step"')
    with pytest.warns(
        UserWarning, match=r"metrics\.jsonl: 4 damaged lines are left out, the first is line 2"
    ):
        assert super_resolution.read_metrics(path) == [{"step": 1}, {"step": 5}]
    lines = ["1.5", '"inf"', "null", '"2"', "[]", "true"]
    path.write_text("".join(f'{{"step": {i}, "loss": {value}}}\n' for i, value in enumerate(lines)))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl: 4 damaged lines .* the first is line 3"):
        assert [r["loss"] for r in super_resolution.read_metrics(path, ("loss",))] == [1.5, np.inf]


def test_a_log_of_other_fields_is_no_traceback(folder, tmp_path):
    """Its records are left out of the time and of the curve, which a warning says."""
    config = tiny(folder, steps=6, log_every=3)
    super_resolution.train(network(), config, tmp_path, until=3)
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 2, "seconds": "12", "loss": "low", "psnr": "30"}\n' + log.read_text())
    with pytest.warns(UserWarning, match=r"1 damaged lines are left out"):
        super_resolution.train(network(), config, tmp_path)
    with pytest.warns(UserWarning, match=r"1 damaged lines are left out"):
        export.save_curve(log, tmp_path / "curve.png", "net", "l1")


def test_patches_depend_on_their_index_alone(folder):
    source = patches.PatchSource.create(patches.read_folder(folder), 12, 2, seed=3)
    first = [source(index) for index in range(8)]
    again = [source(index) for index in reversed(range(8))][::-1]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first[0].shape == (2 * (12 + 2 * patches.MARGIN),) * 2 + (3,)
    assert len({patch.tobytes() for patch in first}) == 8
    batches = np.concatenate(list(patches.batches(source, 4, first_step=1, steps=2)))
    np.testing.assert_array_equal(batches, first[4:])


def test_patches_are_cut_from_the_low_resolution_of_the_whole_image(folder):
    """Inside the margin, the low resolution of a patch is a patch of the image's low resolution."""
    image = patches.read_folder(folder)[0]
    source = patches.PatchSource.create([image], 12, 2, seed=0)
    whole = np.asarray(quality.make_low_resolution(from_uint8(image), 2))
    margin = patches.MARGIN
    for index in range(6):
        low = np.asarray(quality.make_low_resolution(from_uint8(source(index)), 2))
        low = low[margin:-margin, margin:-margin]
        # Any of the 8 orientations; found by looking everywhere.
        windows = np.lib.stride_tricks.sliding_window_view(whole, (12, 12), axis=(0, 1))
        found = [
            np.abs(windows - np.rot90(flipped, turn).transpose(2, 0, 1)).max(axis=(-3, -2, -1)).min()
            for flipped in (low, low[:, ::-1])
            for turn in range(4)
        ]
        # One level: 8-bit rounding may fall the other way where the float sums differ in the last bit.
        assert min(found) <= 1.01 / 255


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_folder": "/nowhere"}, "folder /nowhere does not exist"),
        ({"patch": 100}, "both sides of at least 200 pixels"),
        ({"schedule": "linear"}, "choose from: cosine, halve"),
        ({"loss": "l3"}, "unknown loss 'l3'; choose from: l1, l2, srgan"),
    ],
)
def test_bad_input(folder, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        super_resolution.train(network(), tiny(folder, **changes), tmp_path)


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"image .*broken\.png: .*"):
        patches.read_folder(tmp_path)


def test_a_network_with_batch_normalisation(folder, tmp_path):
    """SRResNet trains with the statistics of the batch and comes back with running ones, ready for use."""
    network = models.create("srresnet", blocks=1, features=8, scale=2)
    config = tiny(folder, loss="l2", validation_folder="", steps=100, log_every=100)
    trained = super_resolution.train(network, config, tmp_path)
    norm = trained.body_end.norm
    assert norm.use_running_average
    assert np.abs(np.asarray(norm.mean[...])).max() > 1e-3
    photographs = patches.read_folder(folder)
    before = quality.evaluate_psnr(models.create("srresnet", blocks=1, features=8, scale=2), photographs)
    after = quality.evaluate_psnr(trained, photographs)
    assert after > before + 3


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_statistics_are_averaged_as_the_weights_are(folder, decay):
    """By hand over three steps: the running mean of the body's last normalisation."""
    config = tiny(folder, loss="l2", ema_decay=decay)
    network = models.create("srresnet", blocks=1, features=8, scale=2)
    trainer, state = super_resolution.create_trainer(network, config)
    source = patches.PatchSource.create(patches.read_folder(folder), config.patch, 2, seed=0)
    step = jax.jit(trainer.step)
    expected = np.zeros(8)
    for index, batch in enumerate(patches.batches(source, 4, 0, 3)):
        state, _ = step(state, None, batch, np.int32(index))
        last = np.asarray(
            nnx.merge(trainer.evaluation, state["parameters"], state["statistics"]).body_end.norm.mean
        )
        kept = min(decay, (1 + index) / (10 + index))
        expected = kept * expected + (1 - kept) * last
    averaged = trainer.averaged(state).body_end.norm
    np.testing.assert_allclose(averaged.mean[...], expected, rtol=1e-5, atol=1e-7)
    assert averaged.use_running_average
    assert np.array_equal(averaged.mean[...], last) == (decay == 0)


def test_without_statistics_only_the_parameters_are_averaged(folder):
    """The state of an EDSR, and so its checkpoints, are as they were before statistics were averaged."""
    _, state = super_resolution.create_trainer(network(), tiny(folder))
    assert jax.tree.structure(state["average"]) == jax.tree.structure(state["parameters"])
    assert not jax.tree.leaves(state["statistics"])
