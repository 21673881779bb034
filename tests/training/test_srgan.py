"""The losses of SRGAN beside PyTorch's, and a few steps of its training on tiny images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from PIL import Image

from configs.train_edsr import get_config
from srdef import models
from srdef.errors import InputError
from srdef.storage.fingerprint import digest
from srdef.training import patches, srgan, super_resolution


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checks and noise: texture that a squared error would blur."""
    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i in range(2):
        noise = rng.integers(0, 256, (48, 48, 3), np.uint8)
        Image.fromarray(np.where(np.indices((48, 48)).sum(0)[..., None] % 4 < 2, noise, 255 - noise)).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    """The runs of one test share their compiled step."""
    folder = str(tmp_path_factory.mktemp("cache"))
    options = {"jax_compilation_cache_dir": folder, "jax_persistent_cache_min_compile_time_secs": 1}
    before = {name: getattr(jax.config, name) for name in options}
    for settings in (options, before):
        for name, value in settings.items():
            jax.config.update(name, value)
        reset_cache()  # it was looked for once, and not found
        if settings is options:
            yield


@pytest.fixture(scope="module")
def feature_network():
    return models.create("squeezenet", pretrained=True)


def tiny(folder, **changes):
    config = get_config("srgan_x2")
    config.update(
        {
            "train_folder": str(folder),
            "patch": 16,
            "batch_size": 2,
            "steps": 6,
            "log_every": 2,
            "checkpoint_every": 2,
            "learning_rate": 1e-3,
            "discriminator_features": 16,
            "discriminator_hidden": 32,
            **changes,
        }
    )
    perceptual = {"network": "squeezenet", "endpoint": "fire2", "scale": 0.01}
    config.perceptual.update(changes.get("perceptual", perceptual))
    return config


def generator(seed=0):
    return models.create("srresnet", blocks=1, features=8, scale=2, seed=seed)


def test_losses_are_binary_cross_entropies(rng):
    """PyTorch's BCE with logits; a logit of ±200, whose probability is 0 or 1 in float32, stays finite."""
    real, fake = (np.append(rng.normal(0, 3, 30), [200, -200]).astype(np.float32) for _ in range(2))
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(32), torch.zeros(32)
    expected = bce(torch.tensor(real), ones) + bce(torch.tensor(fake), zeros)
    np.testing.assert_allclose(srgan.discriminator_loss(real, fake), expected.item(), rtol=1e-6)
    np.testing.assert_allclose(srgan.generator_loss(fake), bce(torch.tensor(fake), ones).item(), rtol=1e-6)
    # A discriminator that knows nothing: ln 2 for each part.
    np.testing.assert_allclose(srgan.discriminator_loss(jnp.zeros(3), jnp.zeros(3)), 2 * np.log(2), rtol=1e-6)


def test_perceptual_loss(feature_network, rng):
    """Zero for equal images; the scale enters squared; no gradient to the target; any endpoint."""
    a, b = (jnp.asarray(rng.random((2, 32, 32, 3), np.float32)) for _ in range(2))

    @jax.jit
    def loss(network, a, b, scale):
        return srgan.perceptual_loss(network, "fire3", a, b, scale)

    maps = jax.jit(lambda network, x: network.endpoints(x))
    expected = np.square(np.asarray(maps(feature_network, a)["fire3"] - maps(feature_network, b)["fire3"]))
    np.testing.assert_allclose(loss(feature_network, a, b, 1.0), expected.mean(), rtol=1e-4)
    np.testing.assert_allclose(loss(feature_network, a, b, 0.1), 0.01 * expected.mean(), rtol=1e-4)
    assert loss(feature_network, a, a, 1.0) == 0
    towards_a, towards_b = jax.jit(jax.grad(loss, argnums=(1, 2)))(feature_network, a, b, 1.0)
    assert np.abs(towards_a).max() > 0
    assert np.abs(towards_b).max() == 0
    last = srgan.feature_map(feature_network, "", a)
    np.testing.assert_allclose(last, maps(feature_network, a)["fire9"], rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def started(folder):
    """A trainer, its initial state, one batch, and what one step makes of them."""
    config = tiny(folder)
    trainer, state = srgan.create_trainer(generator(), config)
    source = patches.PatchSource.create(patches.read_folder(folder), 16, 2, seed=0)
    batch = next(patches.batches(source, 2, 0, 1))
    return trainer, state, batch, jax.jit(trainer.step)


def changed(before, after):
    """Largest change of each parameter."""
    difference = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max(), before, after)
    return {
        jax.tree_util.keystr(path): value for path, value in jax.tree_util.tree_leaves_with_path(difference)
    }


def test_a_step_moves_both_players(started):
    """Every parameter has a gradient, and every statistic sees the batch."""
    trainer, state, batch, step = started
    after, losses = step(state, trainer.frozen, batch, 0)
    assert set(losses) == {"loss", "content", "pixels", "adversarial", "discriminator"}
    expected = losses["content"] + 1e-3 * losses["adversarial"]
    np.testing.assert_allclose(losses["loss"], expected, rtol=1e-5)
    for part in (lambda s: s, lambda s: s["discriminator"]):
        for kind in ("parameters", "statistics"):
            moved = changed(part(state)[kind], part(after)[kind])
            assert min(moved.values()) > 0, moved
    # Adam's first step is the learning rate wherever the gradient is not tiny.
    assert max(changed(state["parameters"], after["parameters"]).values()) == pytest.approx(1e-3, rel=1e-3)


def test_the_average_has_statistics_too(started):
    """After one step of a decay that is 1/10 at first: nine tenths of the way to the new ones."""
    trainer, state, batch, step = started
    after, _ = step(state, trainer.frozen, batch, 0)
    averaged = trainer.averaged(after).body_end.norm
    last = nnx.merge(trainer.evaluation, after["parameters"], after["statistics"]).body_end.norm
    np.testing.assert_allclose(averaged.mean[...], 0.9 * last.mean[...], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(averaged.var[...], 0.1 + 0.9 * last.var[...], rtol=1e-5)
    assert np.abs(last.mean[...]).max() > 0


def test_the_adversarial_part_alone_teaches_the_generator(started):
    """Without the other losses, each step fools the discriminator more: no gradient is lost on the way."""
    trainer, state, batch, step = started
    frozen = {**trainer.frozen, "weights": {"content": 0.0, "pixels": 0.0, "adversarial": 1.0}}
    opponent = state["discriminator"]
    values = []
    for index in range(8):
        state, losses = step({**state, "discriminator": opponent}, frozen, batch, index)
        values.append(float(losses["adversarial"]))
    assert values[-1] < 0.8 * values[0], values


def test_one_program_serves_all_steps(started):
    """What a step returns has the types of what it takes, so that nothing is compiled again."""
    trainer, state, batch, step = started
    shapes = jax.eval_shape(step, state, trainer.frozen, batch, 0)[0]
    assert [x.weak_type for x in jax.tree.leaves(state)] == [x.weak_type for x in jax.tree.leaves(shapes)]


def test_the_discriminator_separates(started):
    """Against outputs that stay as they are, its loss falls far below that of guessing, 2 ln 2."""
    trainer, state, batch, step = started
    fixed = {name: state[name] for name in ("parameters", "statistics", "optimizer", "average")}
    values = []
    for index in range(12):
        state, losses = step({**state, **fixed}, trainer.frozen, batch, index)
        values.append(float(losses["discriminator"]))
    assert values[0] > 1
    assert values[-1] < 0.4, values


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(folder, tmp_path):
    def run(name, report=lambda record: None):
        config = tiny(folder)
        return super_resolution.train(generator(), config, tmp_path / name, report, srgan.create_trainer)

    def kill(record):
        if record["step"] == 4:
            raise Killed

    whole = run("whole")
    with pytest.raises(Killed):
        run("killed", kill)
    steps = []
    continued = run("killed", lambda record: steps.append(record["step"]))
    assert steps == [4, 6]  # from the checkpoint of step 2
    assert digest(continued) == digest(whole)
    assert digest(whole) != digest(generator())
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    records = [[json.loads(line) for line in log] for log in logs]
    for a, b in zip(*records, strict=True):
        times = {"images_per_second": 0, "busy": 0, "seconds": 0}
        assert {**a, **times} == {**b, **times}
    assert whole.body_end.norm.use_running_average  # ready for inference


@pytest.mark.parametrize(
    ("perceptual", "message"),
    [
        ({"network": "squeezenet", "endpoint": "fire1"}, "no endpoint 'fire1'; choose from: fire2, fire3"),
        ({"network": "edsr_small_x2", "endpoint": ""}, "'edsr_small_x2' has no feature maps"),
        ({"network": "edsr", "endpoint": ""}, "'edsr' has no trained weights"),
    ],
)
def test_bad_feature_networks(folder, perceptual, message):
    with pytest.raises(InputError, match=message):
        srgan.create_trainer(generator(), tiny(folder, perceptual=perceptual))
