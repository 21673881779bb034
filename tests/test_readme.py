"""The code of the README runs as it stands."""

import contextlib
import importlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from srdef import defenses

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST_PAGE, OWN_DEFENSE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[:2]


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
    assert namespace["recovered"].shape == (20, 320, 320, 3)
    assert np.mean(namespace["result"].success) >= 0.9
    assert 0.0 < float(printed) < 0.6


def test_own_defense():
    try:
        namespace, _ = run(OWN_DEFENSE)
        assert "darken" in defenses.list()
        image = np.full((1, 4, 4, 3), 0.5, np.float32)
        darker = defenses.apply(defenses.create("darken", factor=0.5), image, key=jax.random.key(0))
        np.testing.assert_allclose(darker, 0.25)
        assert isinstance(defenses.create("darken"), namespace["Darken"])
    finally:
        defenses.REGISTRY._builders.pop("darken", None)


@pytest.mark.slow
def test_code_of_the_page_on_attackers():
    """No threat of the page leaves much, and the checks have a line each."""
    page = (ROOT / "docs/adaptive.md").read_text(encoding="utf-8")
    white_box, checks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    namespace, _ = run(white_box)
    assert np.mean(namespace["result"].success) >= 0.75
    _, printed = run(checks)
    assert printed.count("passed") + printed.count("failed") >= 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_configurations_exist(path):
    for name, argument in re.findall(
        r"--config=configs/(\w+)\.py(?::([a-z][\w,]*))?", path.read_text(encoding="utf-8")
    ):
        configuration = importlib.import_module(f"configs.{name}")
        assert configuration.get_config(*[argument] if argument else [])


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"(?:configs|experiments|srdef)/[\w/.]+\.\w+", README)))
)
def test_named_files_exist(path):
    assert (ROOT / path).is_file()


def test_commands_name_real_scripts_and_targets():
    for module in re.findall(r"python -m (experiments\.\w+)", README):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
