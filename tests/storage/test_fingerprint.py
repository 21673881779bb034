"""A result is stale when any source that it depends on has changed, and only then."""

import importlib
import sys

import pytest

from srdef import attacks, models
from srdef.storage.fingerprint import code_digest, digest

ATTACK = """
from my_package import helpers

class Attack:
    steps = 1
"""


def forget():
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write the package `my_package`, import it, and give the digest of its attack."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "my_package").mkdir()

    def package(attack=ATTACK, helpers="def step(x):\n    return x\n"):
        (tmp_path / "my_package" / "attack.py").write_text(attack)
        (tmp_path / "my_package" / "helpers.py").write_text(helpers)
        importlib.invalidate_caches()
        forget()
        return code_digest(importlib.import_module("my_package.attack").Attack())

    yield package
    forget()


@pytest.mark.parametrize(
    "change",
    [
        {"attack": ATTACK.replace("1", "2")},
        {"helpers": "def step(x):\n    return 2 * x\n"},
    ],
    ids=["own source", "a helper that it imports"],
)
def test_changes_with(write, change):
    before = write()
    assert write() == before
    assert write(**change) != before


def test_does_not_change_with_comments_and_docstrings(write):
    documented = ATTACK.replace("class Attack:", '# Why.\nclass Attack:\n    """What."""\n')
    assert write(attack=documented) == write()


def test_sees_objects_inside_others(write):
    alone = write()
    from my_package.attack import Attack

    assert code_digest([Attack()]) == alone
    assert code_digest((Attack(), attacks.fgsm(0.1))) != alone


def test_attacks_have_digests_of_their_own():
    assert code_digest(attacks.fgsm(0.1)) == code_digest(attacks.fgsm(0.2))
    assert code_digest(attacks.fgsm(0.1)) != code_digest(attacks.deepfool())


def test_the_digest_of_a_pytorch_model_is_that_of_its_weights():
    """They are no leaves of the classifier, and results for other weights must not be used again."""
    import torch

    def classifier(seed):
        torch.manual_seed(seed)
        return models.from_torch(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval())

    assert digest(classifier(0)) == digest(classifier(0))
    assert digest(classifier(0)) != digest(classifier(1))
