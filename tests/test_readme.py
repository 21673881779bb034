"""The code of the README runs as it stands, and the first page comes first."""

import contextlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import toys
from test_notebooks import differences

from srdef import attacks, defenses
from srdef.victims import Undefended

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIRST_PAGE, OWN_DEFENSE, OWN_ATTACK = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
(EXPECTED,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)

# A terminal or a window shows about so much at once.
SCREEN_WORDS = 350


@pytest.fixture(autouse=True)
def same_registries(monkeypatch):
    """What the README registers is gone after its test."""
    for registry in (attacks.REGISTRY, defenses.REGISTRY):
        monkeypatch.setattr(registry, "_builders", dict(registry._builders))


def run(code):
    namespace = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return namespace, printed.getvalue()


@pytest.mark.slow
def test_first_page():
    namespace, printed = run(FIRST_PAGE)
    assert len(namespace["images"]) == 20
    assert namespace["defended"].shape == (20, 320, 320, 3)
    assert differences([printed.strip()], [EXPECTED.strip()]) == []


def test_one_screen_before_the_first_table():
    before, table, _ = README.partition("\n| ")
    assert table
    assert "make demo" in before
    assert "pip install -e" in before
    assert FIRST_PAGE in before
    prose = re.sub(r"```.*?```", "", before, flags=re.DOTALL)
    assert len(prose.split()) <= SCREEN_WORDS


def test_own_defense():
    namespace, _ = run(OWN_DEFENSE)
    assert "darken" in defenses.list_names()
    image = np.full((1, 4, 4, 3), 0.5, np.float32)
    darker = defenses.apply(defenses.create("darken", factor=0.5), image, key=jax.random.key(0))
    np.testing.assert_allclose(darker, 0.25)
    assert isinstance(defenses.create("darken"), namespace["Darken"])


def test_own_attack():
    """It breaks linear classifiers, within its ball."""
    run(OWN_ATTACK)
    classifier = toys.Pooled()
    images, labels = toys.make_dataset(classifier, wrong=())
    attack = attacks.create("steepest", epsilon=0.5)
    result = attacks.perturb(attack, Undefended(classifier), images, labels, key=jax.random.key(0))
    assert result.success.all()
    assert result.l2.max() <= 0.5 + 1e-6


def test_the_guides_show_the_same_attack():
    assert OWN_ATTACK in (ROOT / "docs/guides/your-attack.md").read_text(encoding="utf-8")


def test_commands_name_real_targets():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
