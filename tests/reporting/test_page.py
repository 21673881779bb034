"""The HTML report: its numbers are the run's, it needs nothing else, and it says what is missing."""

import base64
import html
import io
import json
import re
import shutil
from html.parser import HTMLParser

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorstore as ts
from ml_collections import ConfigDict
from PIL import Image

from srdef import datasets, defenses
from srdef.commands import evaluate
from srdef.errors import InputError
from srdef.images import from_uint8, to_uint8
from srdef.reporting import page as report
from srdef.reporting import page_files, page_images

pytestmark = pytest.mark.slow  # a run of the main job and its reports

VOID = {"meta", "img", "input", "br"}


class Checker(HTMLParser):
    """Fails on tags that do not close in order, and collects addresses and the cells of tables."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.alternatives = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if tag == "img":
            self.alternatives.append(found["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 3
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": 96, "limit": 3})
    config.classifier = ConfigDict({"name": "efficientnet_lite0", "pretrained": True})
    config.attacks = ConfigDict({"<FGSM> & 4": {"name": "fgsm", "epsilon": 4 / 255, "storage": "uint8"}})
    config.defenses = ConfigDict(
        {
            "no defense": {"name": "identity"},
            "bicubic": {"name": "interpolation", "method": "bicubic"},
            "random": {"name": "resize_pad"},
        }
    )
    config.gallery = ConfigDict({"attack": "<FGSM> & 4", "images": 0})
    workdir = tmp_path_factory.mktemp("report")
    evaluate.main(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def page(finished):
    return report.build(finished, count=2)


def test_the_page_is_whole_and_needs_no_network(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.addresses
    assert all(address.startswith("data:image/webp;base64,") for address in checker.addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page
    assert "<FGSM>" not in page
    assert "&lt;FGSM&gt; &amp; 4" in page


def test_every_number_of_the_table_is_there(finished, page):
    table = json.loads((finished / "table.json").read_text())
    body = page.split("<h2>Accuracy after attack and defense")[1].split("<h2>")[0]
    found = re.findall(r"<b>([0-9.]+)</b><small>(\d+)–(\d+)</small>", body)
    expected = [
        (f"{100 * c['value']:.1f}", f"{100 * c['low']:.0f}", f"{100 * c['high']:.0f}") for c in table["cells"]
    ]
    assert found == expected
    assert f"{table['clean_accuracy']['successes']} of {table['clean_accuracy']['total']} images" in page


def test_traces_of_attacks(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    page = report.build(workdir, count=2, traced=["<FGSM> & 4"])
    assert "<h2>What the attacks did</h2>" in page
    assert "&lt;FGSM&gt; &amp; 4, once more" in page
    assert Image.open(workdir / "trace.png").width > 1000
    with pytest.raises(InputError, match="unknown attack 'pgd'; the run has: <FGSM> & 4"):
        report.build(workdir, count=2, traced=["pgd"])
    with pytest.raises(InputError, match="--images must be at least 1"):
        report.build(workdir, count=0, traced=["<FGSM> & 4"])
    config = json.loads((workdir / "config.json").read_text())
    config["dataset"]["offset"] = 2
    (workdir / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the data set has no longer the image .* of the run; --images=0"):
        report.build(workdir, count=2)


def decode(address):
    assert address.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def shown(page):
    """Of every case of the gallery: the name, pixels, class and mark of each version."""
    cases = []
    for card in re.findall(r"<figure.*?</figure>", page, flags=re.DOTALL):
        addresses = re.findall(r'<img class=\w+ src="([^"]+)"', card)
        buttons = re.findall(r"<label><input [^>]+>([^<]+)<span class=(\w+)>([✓✗]) ([^<]+)</span>", card)
        versions = zip(addresses, buttons, strict=True)
        cases.append([(name, decode(a), html.unescape(said), mark) for a, (name, mark, _, said) in versions])
    return cases


def test_the_gallery_shows_the_run_s_images(finished, page):
    """Every version bit for bit in 8 bits, with the answer of the records."""
    dataset = datasets.load("imagenet_samples", size=96, limit=3)
    (folder,) = (finished / "store" / "adversarial").iterdir()
    stored = page_images.read_array(folder / "images", slice(None))
    records = pq.read_table(finished / "records.parquet").to_pylist()
    said = {(r["attack"], r["defense"], r["image_id"]): r["prediction"] for r in records}
    right = [r["image_id"] for r in records if r["attack"] == "<FGSM> & 4" and r["defense"] == "bicubic"]
    cases = shown(page)
    assert len(cases) == min(2, len(right)) >= 1

    key = jax.random.fold_in(jax.random.key(0), 1)
    for i, versions, adversarial in zip(right, cases, stored, strict=False):
        floats, ids = from_uint8(adversarial)[None], np.array([i])
        bicubic = defenses.apply(defenses.create("interpolation", method="bicubic"), floats, key=key, ids=ids)
        # What the classifier was asked about is the first draw of a random defense.
        draw = jax.random.fold_in(jax.random.fold_in(key, i), 0)
        random = defenses.create("resize_pad")(floats[0], draw)
        label = dataset.labels[i]
        expected = {
            "clean": (to_uint8(dataset.images[i]), label),
            "adversarial": (adversarial, said["<FGSM> & 4", "no defense", i]),
            "bicubic": (to_uint8(bicubic[0]), said["<FGSM> & 4", "bicubic", i]),
            "random": (to_uint8(np.asarray(random)), said["<FGSM> & 4", "random", i]),
        }
        assert [name for name, *_ in versions] == list(expected)
        for name, pixels, answer, mark in versions:
            wanted, prediction = expected[name]
            # A program compiled for another batch may round a float32 sum to the next level.
            difference = np.abs(pixels.astype(int) - wanted)
            assert difference.max() <= (0 if name in ("clean", "adversarial") else 1), name
            assert (difference > 0).mean() < 1e-3, name
            assert answer == dataset.class_names[prediction], name
            assert mark == ("right" if prediction == label else "wrong"), name
        assert not np.array_equal(versions[0][1], versions[1][1])


def test_the_images_of_another_run_are_left_alone(finished, tmp_path):
    """A second store beside the run's: the same attack, seed and distances, other images."""
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    (folder,) = (workdir / "store" / "adversarial").iterdir()
    stored = page_images.read_array(folder / "images", slice(None))
    other = folder.with_name("0" + folder.name)  # the first that a search would find
    shutil.copytree(folder, other)
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(other / "images")}, "open": True}
    ts.open(spec).result()[...].write(255 - stored).result()
    np.testing.assert_array_equal(shown(report.build(workdir, count=1))[0][1][1], stored[0])
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="the images of <FGSM> & 4 are not in"):
        report.build(workdir, count=1)


def test_paper_numbers_and_notes_stand_beside_ours(page):
    table = {
        "classifier": "net", "seed": 1, "metric": "share", "interval": "interval",
        "attacks": ["clean"], "defenses": ["SR"], "notes": ["a note"],
        "clean_accuracy": {"successes": 1, "total": 2, "value": 0.5, "low": 0.1, "high": 0.9},
        "cells": [
            {"defense": "SR", "attack": "clean", "value": 0.25, "low": 0, "high": 0.5, "paper_percent": 96.2}
        ],
        "paper": {"table": 1, "classifier": "inception_v3"},
    }  # fmt: skip
    text = report.page({}, table, [], {"jax": "1"}, {}, [])
    assert "paper 96.2" in text
    assert 'class=tick style="left:96.20%"' in text
    assert "Table 1 of Mustafa et al." in text
    assert "a note" in text
    assert "paper 96" not in page


def test_what_is_missing_is_said(finished, tmp_path):
    with pytest.raises(InputError, match=r"^no finished run .* \(config.json is missing\)"):
        report.build(tmp_path)
    with pytest.raises(InputError, match="unknown attack 'FGSM-3'; the run has: <FGSM> & 4"):
        report.build(finished, ["FGSM-3"])
    with pytest.raises(InputError, match="at least 0"):
        report.build(finished, count=-1)
    # Without a gallery nothing but the files is needed.
    assert "<figure" not in report.build(finished, count=0)


@pytest.mark.parametrize("name", page_files.FILES)
def test_damaged_files_are_named(finished, tmp_path, name):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir, ignore=shutil.ignore_patterns("store"))
    (workdir / name).write_bytes(b"{")
    with pytest.raises(InputError, match=rf"{name} is damaged \(.*\): run srdef evaluate again"):
        report.build(workdir, count=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prediction", 1000, r"\(prediction is 1000, and there are 1000 classes\)"),
        ("label", -1, r"\(label is -1, and there are 1000 classes\)"),  # not the last class
        ("attack", "clean", "has no images under <FGSM> & 4"),
    ],
)
def test_records_that_no_gallery_can_be_made_of(finished, tmp_path, name, value, message):
    workdir = shutil.copytree(finished, tmp_path / "run")
    table = pq.read_table(workdir / "records.parquet")
    column = table.column_names.index(name)
    filled = pa.array([value] * len(table), table[name].type)
    pq.write_table(table.set_column(column, name, filled), workdir / "records.parquet")
    with pytest.raises(InputError, match=rf"records.parquet .*{message}"):
        report.build(workdir, count=1)
