"""The card and the curve that go with trained weights, and the script that leaves them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from configs import train_edsr
from experiments import cli, train_sr
from srdef import models
from srdef.training import export
from srdef.weights import loading

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Set1"
    folder.mkdir()
    noise = Image.fromarray(RNG.integers(0, 256, (9, 9, 3), np.uint8))
    noise.resize((80, 80), Image.Resampling.BICUBIC).save(folder / "a.png")
    return folder


def plain(name, **changes):
    config = train_edsr.get_config(name)
    config.update(changes)
    return cli.plain(config)


def rows_of(card):
    """The table of a card: two columns, whatever stands in them."""
    lines = [line.strip("|").split("|") for line in card.splitlines() if line.startswith("| ")]
    assert all(len(cells) == 2 for cells in lines)
    return {key.strip(): value.strip() for key, value in lines}


def test_card_of_an_edsr(folder, tmp_path):
    network = models.create("edsr", blocks=1, features=4)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    card = export.card(
        network, plain("baseline_x2", validation_folder=str(folder)), tmp_path / "w.safetensors"
    )
    rows = rows_of(card)
    assert card.startswith("# edsr_baseline_x2\n\nSuper-resolution x2, 1,259 parameters, trained by srdef.")
    assert rows["SHA-256"] == f"`{hashlib.sha256((tmp_path / 'w.safetensors').read_bytes()).hexdigest()}`"
    assert rows["recipe"].startswith("L1, 300000 steps of 16 patches of 48x48 low-resolution pixels")
    assert "configs/train_edsr.py:baseline_x2 " in rows["command"]
    assert rows["PSNR on Set1"].endswith("dB (Y, border 2, antialiased bicubic low resolution in 8 bits)")
    assert "started from" not in rows


def test_card_of_an_srgan(tmp_path):
    network = models.create("srresnet", blocks=1, features=4, scale=2)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    config = plain("srgan_x2", initial_weights="somewhere/srresnet_x2.safetensors")
    rows = rows_of(export.card(network, config, tmp_path / "w.safetensors"))
    assert rows["started from"] == "srresnet_x2.safetensors"
    assert rows["feature map"] == "vgg19, conv5_4, times 0.0784314"
    assert rows["weights of the losses"] == "content 1, pixels 0, adversarial 0.001"
    assert rows["recipe"].startswith(
        "perceptual and adversarial loss (SRGAN), 200000 steps of 16 patches of 48x48"
    )


@pytest.mark.parametrize(
    ("name", "network", "scale", "loss", "patch"),
    [
        ("baseline_x3", "edsr_baseline_x3", 3, "l1", 48),
        ("srresnet_x4", "srresnet_x4", 4, "l2", 24),
        ("srgan_x2", "srgan_x2", 2, "srgan", 48),
    ],
)
def test_configurations_name_networks(name, network, scale, loss, patch):
    config = train_edsr.get_config(name)
    assert (config.network, config.loss, config.patch) == (network, loss, patch)
    assert models.REGISTRY.builder(network)
    if loss != "l1":  # 96 high-resolution pixels
        assert config.patch * scale == 96


@pytest.mark.slow
def test_the_script_trains_an_srgan_from_an_srresnet(folder, tmp_path):
    """Without VGG's weights, on SqueezeNet's features; two steps of the networks of the paper."""
    loading.save_safetensors(models.create("srresnet_x2", seed=3), tmp_path / "srresnet_x2.safetensors")
    config = train_edsr.get_config("srgan_x2")
    config.update(
        {"train_folder": str(folder), "validation_folder": str(folder), "batch_size": 1, "steps": 2}
    )
    config.update({"initial_weights": str(tmp_path / "srresnet_x2.safetensors"), "patch": 16, "log_every": 1})
    config.perceptual.update({"network": "squeezenet", "endpoint": "fire4", "scale": 0.01})
    train_sr.main(config, tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"srgan_x2.safetensors", "srgan_x2.md", "metrics.jsonl", "curve.png"} <= files
    trained = loading.flatten(models.create("srgan_x2", weights=tmp_path / "run/srgan_x2.safetensors"))
    start = loading.flatten(models.create("srresnet_x2", seed=3))
    moved = np.abs(trained["head.kernel"] - start["head.kernel"]).max()
    assert 0 < moved < 1e-3  # two small steps away from where it started
    assert "PSNR on Set1" in rows_of((tmp_path / "run/srgan_x2.md").read_text())
