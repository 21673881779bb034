"""The main job with the paper's classifier: up to the download, and with a file put into the cache."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras_reference
import numpy as np
import pytest
from keras_reference import keras
from ml_collections import ConfigDict
from PIL import Image

from configs import table1
from srdef.commands import evaluate as script
from srdef.weights import catalog, download

ROOT = Path(__file__).parents[2]


def test_without_network_it_ends_in_one_line(tmp_path):
    """A proxy where nobody listens stands for a machine without network."""
    options = ["--config=configs/table1.py:inception_v3", f"--workdir={tmp_path / 'run'}"]
    environment = {
        "SRDEF_CACHE": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    process = subprocess.run(
        [sys.executable, "-m", "experiments.evaluate", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    entry = catalog.entry("inception_v3")
    assert process.stderr == (
        "error: weights of inception_v3: no connection ([Errno 111] Connection refused); "
        f"or fetch {entry.url} by hand and put it at {tmp_path / 'cache' / entry.file}\n"
    )
    assert not [file for file in (tmp_path / "cache").iterdir() if not file.name.endswith(".lock")]


@pytest.mark.slow
def test_with_a_file_in_the_cache(tmp_path, monkeypatch):
    """Random weights in Keras's layout under a test hash: three noisy pictures, an attack, a defense."""
    monkeypatch.setenv("SRDEF_CACHE", str(tmp_path / "cache"))
    download.make_cache_folder()
    entry = catalog.entry("inception_v3")
    path = download.published_path(entry)
    keras_reference.save(keras_reference.build(keras.applications.InceptionV3, seed=0), path)
    digest = f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"
    entry = dataclasses.replace(entry, digest=digest, url=f"http://127.0.0.1:9/{entry.file}")
    monkeypatch.setattr(catalog, "DOWNLOADS", (entry,))

    (tmp_path / "photographs").mkdir()
    for i, picture in enumerate(keras_reference.photographs(100, 100)):
        Image.fromarray((255 * picture).astype(np.uint8)).save(tmp_path / f"photographs/{i}.png")
    config = table1.get_config("inception_v3,1x2")
    assert config.dataset.size == 299  # the paper's; smaller here, for the time it takes
    config.dataset = ConfigDict(
        {"name": "folder", "path": str(tmp_path / "photographs"), "labels": "predicted", "size": 80}
    )
    config.attacks = ConfigDict({"FGSM-10": config.attacks["FGSM-10"]})
    config.defenses = ConfigDict({"no defense": {"name": "identity"}, "SR": config.defenses["SR"]})
    config.gallery.attack = "FGSM-10"
    script.main(config, tmp_path / "run")

    assert download.converted_path(entry).is_file()
    table = json.loads((tmp_path / "run" / "table.json").read_text())
    assert table["clean_accuracy"]["successes"] == 2
    assert table["defenses"] == ["no defense", "SR"]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["classifier"] == {"name": "inception_v3", "pretrained": True}
