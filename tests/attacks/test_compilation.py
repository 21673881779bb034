"""What `precompile` compiles is what `perturb` runs."""

import logging

import jax
import linear_victims
import numpy as np
import pytest
from registered import every

from srdef import attacks
from srdef.attacks.compilation import precompile, precompile_accuracy
from srdef.victims import ExpectationOverTransformation, Undefended

KEY = jax.random.key(0)
PROGRAMS = ("init", "steps", "result", "rounded", "judged")


@pytest.fixture
def compiled(caplog):
    """The programs of `perturb` that were compiled, by name; clear it to begin anew."""
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING, logger="jax")
    yield lambda: {
        name
        for name in PROGRAMS
        for record in caplog.records
        if record.getMessage().startswith(f"Finished XLA compilation of jit({name})")
    }
    jax.config.update("jax_log_compiles", False)


@pytest.mark.parametrize("name", every([name for name in attacks.list_names() if name != "repeat"]))
def test_perturb_finds_its_programs(compiled, caplog, name):
    jax.clear_caches()  # programs of other tests, and of other attacks, are no witnesses
    images = np.pad(linear_victims.images(3), ((0, 0), (0, 7), (0, 0), (0, 0)))
    options = {"bank": images} if name == "admix" else {}
    inner = {"attack": {"name": "ifgsm", "epsilon": 0.1, "steps": 2}} if name == "minimal_epsilon" else {}
    attack = attacks.create(name, **options, **inner)
    if not isinstance(attack, attacks.Attack):
        pytest.skip("runs several attacks")
    victim = Undefended(linear_victims.linear(classes=5))
    options = {"key": KEY, "batch_size": 3, "storage": "uint8", "arithmetic": "float32"}
    precompile(attack, victim, images.shape[1:], **options)
    assert compiled() == set(PROGRAMS)
    caplog.clear()
    attacks.perturb(attack, victim, images, np.arange(3), **options)
    assert compiled() == set()


def test_what_is_kept_as_it_is_is_not_rounded(compiled):
    victim = Undefended(linear_victims.linear(classes=5))
    precompile(attacks.fgsm(0.1), victim, (9, 8, 3), key=KEY, batch_size=3)
    assert compiled() == {"init", "steps", "result", "judged"}


def test_all_attacks_share_the_judge(compiled, caplog):
    images = linear_victims.images(7)
    victim = Undefended(linear_victims.linear(classes=5))
    attacks.perturb(attacks.fgsm(0.1), victim, images, "predicted", key=KEY)
    assert "judged" in compiled()
    caplog.clear()
    attacks.perturb(attacks.deepfool(), victim, images, "predicted", key=KEY)
    assert "steps" in compiled()
    assert "judged" not in compiled()


@pytest.mark.parametrize("version", [pytest.param("standard", marks=pytest.mark.slow), "rand"])
def test_of_several_attacks_the_first_is_compiled_or_all(compiled, caplog, version):
    images = np.pad(linear_victims.images(3), ((0, 0), (0, 9), (0, 0), (0, 0)))
    attack = attacks.autoattack(0.1, version=version)
    victim = Undefended(linear_victims.linear(classes=5))
    options = {"key": KEY, "batch_size": 3}
    first = precompile(attack, victim, images.shape[1:], **options)
    assert compiled() >= {"init", "steps", "result"}
    seen = ExpectationOverTransformation(victim, 20, "loss") if version == "rand" else victim
    members = [attacks.without_early_stop(a) if version == "rand" else a for a in attack.members]
    needs = [precompile(member, seen, images.shape[1:], **options) for member in members]
    caplog.clear()
    assert precompile(attack, victim, images.shape[1:], everything=True, **options) == max(needs)
    assert first == needs[0]
    assert compiled() == set()


def test_a_repeated_attack_needs_what_it_needs_once():
    attack, victim = attacks.pgd(0.1, steps=2), Undefended(linear_victims.linear(classes=5))
    options = {"key": KEY, "batch_size": 3}
    shape = linear_victims.images(1).shape[1:]
    assert precompile(attack.repeat(3), victim, shape, **options) == precompile(
        attack, victim, shape, **options
    )


@pytest.mark.parametrize("draws", [1, 3])
def test_judging_finds_its_program(caplog, draws):
    images = np.pad(linear_victims.images(3), ((0, 0), (0, 11), (0, 0), (0, 0)))
    victim = Undefended(linear_victims.linear(classes=5))
    options = {"key": KEY, "batch_size": 3, "draws": draws}
    said = "Finished XLA compilation of jit(correct_share)"
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING, logger="jax")
    try:
        assert precompile_accuracy(victim, images.shape[1:], **options) > 3 * images[0].nbytes
        assert said in caplog.text
        caplog.clear()
        attacks.accuracy_over_draws(victim, images, np.arange(3), **options)
        assert said not in caplog.text
    finally:
        jax.config.update("jax_log_compiles", False)


def test_memory_grows_linearly_with_the_batch():
    attack, victim = attacks.pgd(0.1, steps=2), Undefended(linear_victims.linear(classes=5))
    needs = [
        precompile(attack, victim, linear_victims.images(1).shape[1:], key=KEY, batch_size=size)
        for size in (4, 8, 32)
    ]
    slope = (needs[1] - needs[0]) / 4
    # Buffers are aligned, and small ones reused or not.
    assert needs[2] == pytest.approx(needs[0] + 28 * slope, rel=0.1)
