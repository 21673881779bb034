"""The HTML report: its numbers are the run's, it needs nothing else, and it says what is missing."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments import evaluate
from srdef import datasets
from srdef.errors import InputError
from srdef.evaluation import report

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
        {"no defense": {"name": "identity"}, "bicubic": {"name": "interpolation", "method": "bicubic"}}
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
    body = page.split("<h2>Destruction rate")[1].split("<h2>")[0]
    found = re.findall(r"<b>([0-9.]+)</b><small>(\d+)–(\d+)</small>", body)
    expected = [
        (f"{100 * c['value']:.1f}", f"{100 * c['low']:.0f}", f"{100 * c['high']:.0f}") for c in table["cells"]
    ]
    assert found == expected
    assert f"{table['clean_accuracy']['successes']} of {table['clean_accuracy']['total']} images" in page


def test_the_gallery_shows_the_run_s_images(finished, page):
    checker = Checker()
    checker.feed(page)
    # Clean, attacked and one defense, of two images (or of one, if only one was right).
    assert len(checker.addresses) in (3, 6)
    data = base64.b64decode(checker.addresses[0].split(",")[1])
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255
    dataset = datasets.load("imagenet_samples", size=96, limit=3)
    errors = np.abs(dataset.images - shown).mean(axis=(1, 2, 3))
    # WebP at quality 92 is within a few levels; another photograph is not.
    assert errors.min() < 0.02
    assert np.sort(errors)[1] > 0.05
    assert dataset.class_names[dataset.labels[errors.argmin()]] in checker.alternatives[0]


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
    with pytest.raises(InputError, match=r"no finished evaluation .* \(config.json is missing\)"):
        report.build(tmp_path)
    with pytest.raises(InputError, match="unknown attack 'FGSM-3'; the run has: <FGSM> & 4"):
        report.build(finished, ["FGSM-3"])
    with pytest.raises(InputError, match="at least 0"):
        report.build(finished, count=-1)
    # Without a gallery nothing but the files is needed.
    assert "<figure" not in report.build(finished, count=0)
