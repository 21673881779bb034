"""Options of a training: arithmetic, averaging, rates, starting weights, time, devices."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs.train_edsr import get_config
from srdef import batching, models
from srdef.commands import cli
from srdef.cpu.jaxprs import equations
from srdef.errors import InputError
from srdef.models.registry import without_weights
from srdef.training import patches, super_resolution
from srdef.weights import loading


@pytest.fixture(scope="module")
def photographs():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    return [np.asarray(noise.resize((64, 60), Image.Resampling.BICUBIC))]


def tiny(**changes):
    config = get_config("small_x2")
    config.update({"patch": 12, "batch_size": 4, "steps": 4, "warmup_steps": 1, "log_every": 1, **changes})
    return config


def network(scale=2, seed=0, features=8):
    return models.create("edsr", blocks=1, features=features, scale=scale, rgb_range=2.0, seed=seed)


def one_step(photographs, precision):
    """The loss of the first batch, the gradient (of Adam's first moment), and the compiled program."""
    config = tiny(precision=precision)
    trainer, state = super_resolution.create_trainer(network(), config)
    source = patches.PatchSource.create(photographs, config.patch, 2, seed=0)
    batch = jax.device_put(np.stack([source(index) for index in range(4)]))
    step = jax.jit(lambda state, batch: trainer.step(state, None, batch, jnp.int32(1)))
    text = step.lower(state, batch).as_text()
    after, losses = step(state, batch)
    moments = jax.tree.leaves(after["optimizer"][1][0].mu)
    return float(losses["loss"]), np.concatenate([np.ravel(m) for m in moments]), text, after


def test_bf16(photographs):
    """Convolutions in bfloat16, weights in float32; loss and gradient within bfloat16's 2^-8 or so."""
    loss, gradient, text, _ = one_step(photographs, "float32")
    loss16, gradient16, text16, after = one_step(photographs, "bf16")
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(after["parameters"]))
    in_bf16 = [line for line in text16.splitlines() if "stablehlo.convolution" in line and "bf16" in line]
    # Forward: two of the block, body_end, the upsampling; backward two for each.
    assert len(in_bf16) == 12
    assert "bf16" not in text
    assert loss16 != loss
    assert loss16 == pytest.approx(loss, rel=1e-2)
    cosine = gradient @ gradient16 / np.linalg.norm(gradient) / np.linalg.norm(gradient16)
    assert cosine > 0.999


@pytest.mark.parametrize(
    "name", ["compact_x2", "compact_x3", "edsr_baseline_x2", "edsr_baseline_x4", "srresnet_x2"]
)
def test_bf16_leaves_both_ends_in_float32(name):
    """As the card says: of the first and of the last convolution that is computed."""
    network = without_weights(name)
    structure, _, parameters, rest = super_resolution.split_modes(network, "bf16")
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    traced = jax.make_jaxpr(lambda p, r, x: nnx.merge(structure, p, r, copy=True)(x))(parameters, rest, image)
    found = [e for e in equations(traced.jaxpr) if e.primitive.name == "conv_general_dilated"]
    types = [e.outvars[0].aval.dtype for e in found]
    assert types[0] == types[-1] == jnp.float32
    assert set(types[1:-1]) == {jnp.dtype(jnp.bfloat16)}


@pytest.fixture
def exact_arithmetic():
    """What the experiments set before they do anything."""
    before = jax.config.jax_default_matmul_precision
    cli.exact_arithmetic()
    yield
    jax.config.update("jax_default_matmul_precision", before)


@pytest.mark.parametrize(("precision", "asked"), [("float32", "HIGHEST"), ("tf32", "HIGH")])
@pytest.mark.usefixtures("exact_arithmetic")
def test_precision_of_the_compiled_step(photographs, tmp_path, monkeypatch, precision, asked):
    """What the training compiles asks for its own arithmetic; on a CPU all are float32."""
    texts = []
    compiled = jax.stages.Lowered.compile

    def record(self, *arguments, **options):
        texts.append(self.as_text())
        return compiled(self, *arguments, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", record)
    config = tiny(precision=precision, steps=1, schedule="halve")
    super_resolution.train(network(), config, tmp_path, photographs=photographs)
    convolutions = [line for t in texts for line in t.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) >= 17
    assert all(f"precision {asked}>" in line for line in convolutions), convolutions[0]


def test_average_of_the_weights():
    """With a decay of 0 the weights themselves; else a mean whose memory grows up to that decay."""
    average, weights = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 6.0])}

    def updated(decay, step):
        return super_resolution.averaged_update(average, weights, decay, jnp.int32(step))["w"]

    np.testing.assert_array_equal(updated(0.0, 500), weights["w"])
    np.testing.assert_allclose(updated(0.9, 500), [0.9 * 1 + 0.1 * 3, 0.9 * 2 + 0.1 * 6], rtol=1e-6)
    np.testing.assert_allclose(updated(0.9, 2), [3 / 12 * 1 + 9 / 12 * 3, 3 / 12 * 2 + 9 / 12 * 6], rtol=1e-6)


def test_learning_rates():
    """Halved at the steps that the paper's recipe says; a cosine from the warm-up's end to zero."""
    halved = super_resolution.learning_rate(
        tiny(schedule="halve", learning_rate=1e-4, warmup_steps=0, halve_every=200)
    )
    np.testing.assert_allclose([halved(i) for i in (0, 199, 200, 399, 400)], [1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5])
    cosine = super_resolution.learning_rate(tiny(learning_rate=1.0, warmup_steps=10, steps=110))
    expected = [0, 0.5, 1, (1 + np.cos(np.pi / 4)) / 2, 0.5, 0]
    np.testing.assert_allclose([cosine(i) for i in (0, 5, 10, 35, 60, 110)], expected, atol=1e-6)


@pytest.mark.parametrize("scale", [3, 4])
def test_other_scales_start_from_x2(scale, tmp_path):
    loading.save_safetensors(network(seed=1), tmp_path / "x2.safetensors")
    larger, untouched = network(scale), loading.flatten(network(scale))
    super_resolution.load_initial(larger, tmp_path / "x2.safetensors")
    x2 = loading.flatten(network(seed=1))
    for name, array in loading.flatten(larger).items():
        # The first stage of x4 is that of x2; the second one, and that of x3, are new.
        known = not name.startswith("upsample.") or (scale == 4 and name.startswith("upsample.0."))
        np.testing.assert_array_equal(array, (x2 if known else untouched)[name])


def test_initial_weights_of_another_network(tmp_path):
    loading.save_safetensors(network(features=4), tmp_path / "x2.safetensors")
    with pytest.raises(InputError, match=r"x2\.safetensors does not fit EDSR: .*kernel has shape"):
        super_resolution.load_initial(network(3), tmp_path / "x2.safetensors")


def test_time_is_kept_and_ends_the_training(photographs, tmp_path):
    """A budget that is over at the first record; the run that is called again does nothing more."""
    config = tiny(minutes=1e-6, steps=100, schedule="halve", warmup_steps=0)
    first = super_resolution.train(network(), config, tmp_path, photographs=photographs)
    records = super_resolution.read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1]
    assert records[0]["seconds"] > 0
    assert 0 <= records[0]["busy"] <= 1
    again = super_resolution.train(network(), config, tmp_path, photographs=photographs)
    assert super_resolution.read_metrics(tmp_path / "metrics.jsonl") == records
    for name, array in loading.flatten(first).items():
        np.testing.assert_array_equal(array, loading.flatten(again)[name])
    # With more time it goes on, and the time of the runs before counts.
    config.update({"minutes": 0.0, "steps": 3})
    super_resolution.train(network(), config, tmp_path, photographs=photographs)
    times = [record["seconds"] for record in super_resolution.read_metrics(tmp_path / "metrics.jsonl")]
    assert len(times) == 3
    assert times == sorted(times)


def test_seconds_of_a_year_grow_by_tenths(tmp_path):
    """In float32 such numbers are whole seconds, and after more of them every second one."""
    log, state = tmp_path / "metrics.jsonl", {"x": np.zeros(2, np.float32)}
    log.write_text('{"step": 7, "seconds": 31536000.3}\n')
    checkpoints = SimpleNamespace(restore=lambda state: (7, state))
    mesh = batching.data_mesh(jax.devices())
    assert super_resolution._restored(checkpoints, log, state, mesh)[:2] == (7, 31536000.3)


def test_waiting_for_data_is_seen(photographs, tmp_path, monkeypatch):
    """A source that takes longer than the step: the device is busy for a part of the time only."""
    draw = patches.PatchSource.draw

    def slow(self, index):
        time.sleep(0.2)
        return draw(self, index)

    monkeypatch.setattr(patches.PatchSource, "draw", slow)
    monkeypatch.setattr(patches, "THREADS", 1)
    config = tiny(steps=3, log_every=3, batch_size=4, schedule="halve")
    super_resolution.train(network(), config, tmp_path, photographs=photographs)
    (record,) = super_resolution.read_metrics(tmp_path / "metrics.jsonl")
    assert record["busy"] < 0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8'; choose from: float32, tf32, bf16"),
        ({"crop": "disk"}, "unknown crop 'disk'; choose from: device, host"),
        ({"ema_decay": 1.0}, "ema_decay must be at least 0"),
        (
            {"steps": 3, "warmup_steps": 4, "schedule": "halve"},
            "steps must be at least 4 with warmup_steps 4",
        ),
        ({"steps": 4, "warmup_steps": 4}, "at least 5 with warmup_steps 4 and the schedule 'cosine', not 4"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, not -1"),
        ({"log_every": 0}, "log_every must be at least 1, not 0"),
        ({"evaluate_every": 0}, "evaluate_every must be at least 1"),
        ({"checkpoint_every": -5}, "checkpoint_every must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"steps": 0, "warmup_steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_options(photographs, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        super_resolution.train(network(), tiny(**changes), tmp_path, photographs=photographs)


def test_no_checkpoint_of_weights_that_are_not_finite(photographs, tmp_path, monkeypatch):
    """The loss is of before the step and only read when it is logged: the weights may be NaN already."""
    step = super_resolution.Trainer.step

    def explode(self, state, frozen, high, index):
        state, losses = step(self, state, frozen, high, index)
        broken = jax.tree.map(lambda x: jnp.where(index == 2, jnp.nan, x), state["parameters"])
        return {**state, "parameters": broken}, losses

    monkeypatch.setattr(super_resolution.Trainer, "step", explode)
    config = tiny(checkpoint_every=1, log_every=100)
    with pytest.raises(InputError, match="the weights are not finite after step 3; lower learning_rate"):
        super_resolution.train(network(), config, tmp_path, photographs=photographs)
    monkeypatch.setattr(super_resolution.Trainer, "step", step)
    # The training goes on from the last good state.
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert kept[-1] == 2
    trained = super_resolution.train(network(), config, tmp_path, photographs=photographs)
    assert all(np.isfinite(array).all() for array in loading.flatten(trained).values())


def test_the_log_is_cut_whole_or_not_at_all(tmp_path, monkeypatch):
    log = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}) + "\n" for step in (1, 2, 3)]
    log.write_text("".join(lines) + '{"step": 4')
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(InputError, match=r"cannot write .*metrics\.jsonl \(no space\)"):
            super_resolution._keep_until(log, 2)
    assert log.read_text() == "".join(lines) + '{"step": 4'
    super_resolution._keep_until(log, 2)
    assert log.read_text() == "".join(lines[:2])


@pytest.mark.slow
def test_host_and_device_crops_train_alike(photographs, tmp_path):
    """The same patches, and so the same loss; the sums may be compiled in another order."""
    losses = []
    for crop in ("device", "host"):
        config = tiny(crop=crop, steps=2)
        super_resolution.train(network(), config, tmp_path / crop, photographs=photographs)
        losses.append([r["loss"] for r in super_resolution.read_metrics(tmp_path / crop / "metrics.jsonl")])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


_DEVICES = """
import json, sys
from pathlib import Path
import jax, numpy as np
from configs.train_edsr import get_config
from srdef import models
from srdef.training import super_resolution
from srdef.weights import loading

config = get_config("small_x2")
config.update({"patch": 8, "batch_size": 8, "steps": 3, "warmup_steps": 1})
config.update({"log_every": 1, "checkpoint_every": 1})
photographs = [np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)]
for until in (2, 3):  # the second continues from the checkpoint of the first
    network = models.create("edsr", blocks=1, features=4, rgb_range=2.0)
    trained = super_resolution.train(network, config, Path(sys.argv[1]), photographs=photographs, until=until)
loading.save_safetensors(trained, Path(sys.argv[1]) / "w.safetensors")
print(len(jax.devices()))
"""


@pytest.mark.slow
def test_eight_devices_train_as_one_does(tmp_path):
    """A batch of eight, one patch a device: the same losses and weights, sums in another order."""
    runs = {}
    for devices in (1, 8):
        environment = dict(os.environ, JAX_PLATFORMS="cpu")
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
        folder = tmp_path / str(devices)
        command = [sys.executable, "-c", _DEVICES, str(folder)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr
        assert run.stdout.split()[-1] == str(devices)
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == [1, 2, 3]
        trained = models.create("edsr", blocks=1, features=4, rgb_range=2.0, weights=folder / "w.safetensors")
        runs[devices] = [record["loss"] for record in records], loading.flatten(trained)
    np.testing.assert_allclose(runs[1][0], runs[8][0], rtol=1e-5)
    for name, array in runs[1][1].items():
        # Adam divides by the gradient's size, so a gradient near zero turns rounding into a part of the
        # step, which is at most the learning rate, 1e-3.
        np.testing.assert_allclose(array, runs[8][1][name], atol=1e-4)
