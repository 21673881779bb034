"""The card and the curve that go with trained weights, and the script that leaves them."""

import hashlib

import numpy as np
import pytest
from PIL import Image
from training_cards import quick, rows_of

from configs import train_edsr
from srdef import models
from srdef.commands import cli, train_sr
from srdef.errors import InputError
from srdef.training import export, patches, quality
from srdef.training.quality import Quality
from srdef.weights import loading, readers


@pytest.fixture
def folder(tmp_path, rng):
    folder = tmp_path / "Set1"
    folder.mkdir()
    noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    noise.resize((80, 80), Image.Resampling.BICUBIC).save(folder / "a.png")
    return folder


def plain(name, **changes):
    config = train_edsr.get_config(name)
    config.update(changes)
    return cli.plain(config)


RECORDS = [{"step": 300_000, "loss": 0.1, "seconds": 90.0}]


def test_card_of_an_edsr(tmp_path):
    network = models.create("edsr", blocks=1, features=4)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    measured = {"Set1": (Quality(37.814, 0.95871, 35.9, 0.93), Quality(33.68, 0.9304, 32.0, 0.91))}
    config = plain("baseline_x2", validation_folder="photos/Set1", licence="CC0")
    card = export.card(
        network, config, tmp_path / "w.safetensors", "python -m x", RECORDS, measured, "float32"
    )
    rows = rows_of(card)
    assert card.startswith(
        "# edsr_baseline_x2\n\nSuper-resolution x2, 1,259 parameters, trained by srdef. Not the"
    )
    assert rows["SHA-256"] == f"`{hashlib.sha256((tmp_path / 'w.safetensors').read_bytes()).hexdigest()}`"
    assert rows["recipe"] == (
        "L1, 300000 steps of 16 patches of 48x48 low-resolution pixels, Adam 0.0001, "
        "halved every 200000 steps, weights averaged (0.999)"
    )
    # Weights of the convolutions: 3*4*9, 2 and 1 of 4*4*9, 4*16*9, and of four times the pixels 4*3*9.
    gmac = 160**2 * (108 + 3 * 144 + 576 + 4 * 108) / 1e9
    assert rows["cost"] == f"{gmac:.2f} GMAC ({2 * gmac:.2f} GFLOPs) for 160 x 160 pixels"
    assert rows["arithmetic"] == "float32"
    assert rows["command"] == "`python -m x`"
    assert rows["time"] == "1.5 minutes"
    assert rows["licence"] == "Apache-2.0 for the weights; the training images: CC0"
    assert "| Set1 | edsr_baseline_x2 | 37.81 | 0.9587 | 35.90 | 0.9300 |" in card
    assert "| Set1 | bicubic | 33.68 | 0.9304 | 32.00 | 0.9100 |" in card
    assert "border of 2 pixels" in card
    assert "Set1 was looked at during the training and chose nothing" in card
    assert "started from" not in rows


def test_card_of_an_srgan(tmp_path):
    network = models.create("srresnet", blocks=1, features=4, scale=2)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    config = plain("srgan_x2", initial_weights="somewhere/srresnet_x2.safetensors", ema_decay=0.0)
    config["precision"] = "bf16"
    records = [{**RECORDS[0], "step": 1000}]  # stopped by the clock
    rows = rows_of(export.card(network, config, tmp_path / "w.safetensors", "", records, {}))
    assert rows["started from"] == "srresnet_x2.safetensors"
    assert rows["feature map"] == "vgg19, conv5_4, times 0.0784314"
    assert rows["weights of the losses"] == "content 1, pixels 0, adversarial 0.001"
    assert rows["arithmetic"].startswith("bfloat16, weights ")
    assert rows["recipe"].startswith(
        "perceptual and adversarial loss (SRGAN), 1000 of 200000 planned steps of 16 patches of 48x48"
    )
    assert rows["recipe"].endswith("weights of the last step")
    without_log = rows_of(export.card(network, config, tmp_path / "w.safetensors", "", [], {}))
    assert "(SRGAN), 200000 planned steps of 16 patches" in without_log["recipe"]
    assert "time" not in without_log


def test_words_of_the_user_stay_in_their_cell(tmp_path):
    """A bar in them would end it, and what comes after is not shown."""
    network = models.create("edsr", blocks=1, features=4)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    config = plain("baseline_x2", data="DIV2K | Flickr2K", licence="academic\nuse | only")
    quality_of = Quality(37.814, 0.95871, 35.9, 0.93)
    card = export.card(
        network, config, tmp_path / "w.safetensors", "x", RECORDS, {"a|b": (quality_of, quality_of)}
    )
    assert "| data | DIV2K \\| Flickr2K |" in card
    assert "the training images: academic use \\| only |" in card
    assert "| a\\|b | bicubic | 37.81 |" in card


def test_command_is_exact():
    """Every value that is not the recipe's, and no folder of this machine."""
    config = train_edsr.get_config("baseline_x3,gpu")
    config.update({"train_folder": "/disk/me/DIV2K", "steps": 4321, "minutes": 20.0, "data": "photographs"})
    config.initial_weights = "/disk/me/edsr_baseline_x2.safetensors"
    assert train_sr.command(config) == (
        "python -m experiments.train_sr --config=configs/train_edsr.py:baseline_x3,gpu "
        "--config.initial_weights=edsr_baseline_x2.safetensors --config.train_folder=DIV2K "
        "--config.steps=4321 --workdir=…"
    )
    config = train_edsr.get_config("srgan_x2")
    config.perceptual.scale = 0.5
    assert " --config.perceptual.scale=0.5 --workdir=…" in train_sr.command(config)
    config = train_edsr.get_config("compact_24x6_x2")
    config.network_options.features = 12
    assert "compact_24x6_x2 --config.network_options.features=12 --workdir=…" in train_sr.command(config)
    config = train_edsr.get_config("baseline_x2")
    config.network, config.network_options = "edsr", {"blocks": 3}
    options = "--config.network=edsr --config.network_options.blocks=3"
    assert f":baseline_x2 {options} --workdir=…" in train_sr.command(config)


def test_storage(folder, tmp_path):
    """bf16 halves the file and rounds to 8 bits of mantissa; statistics stay; what is loaded is float32."""
    network = models.create("srresnet", blocks=1, features=4, scale=2)
    network.body_end.norm.mean[...] += 0.123456789
    sizes = {}
    for storage in ("float32", "bf16"):
        path = tmp_path / f"{storage}.safetensors"
        assert export.save_weights(network, path, storage) == storage
        sizes[storage] = sum(array.nbytes for array in readers.read(path).values())
        loaded = models.create("srresnet", blocks=1, features=4, scale=2, weights=path)
        again = loading.flatten(loaded)
        for name, array in loading.flatten(network).items():
            exact = storage == "float32" or name.endswith((".mean", ".var"))
            # Half a unit in the eighth bit.
            np.testing.assert_allclose(again[name], array, rtol=0 if exact else 2**-8)
    assert sizes["bf16"] < 0.55 * sizes["float32"]
    rounded = loading.flatten(export.rounded_to_bf16(network))
    for name, array in again.items():
        np.testing.assert_array_equal(array, rounded[name])


@pytest.mark.parametrize("most", [1e9, -1e9])
def test_auto_storage_measures(folder, tmp_path, monkeypatch, most):
    monkeypatch.setattr(export, "BF16_MAY_COST", most)
    network = models.create("edsr", blocks=1, features=4)
    photographs = patches.read_folder(folder)
    stored = export.save_weights(network, tmp_path / "w.safetensors", "auto", photographs)
    kept = readers.read(tmp_path / "w.safetensors")["tail.kernel"].dtype.name
    cost = quality.evaluate_psnr(network, photographs) - quality.evaluate_psnr(
        models.create("edsr", blocks=1, features=4, weights=_bf16(network, tmp_path)), photographs
    )
    assert (kept, stored) == (
        ("bfloat16", f"bf16 (bf16 costs {cost:.4f} dB)")
        if most > 0
        else ("float32", f"float32 (bf16 costs {cost:.4f} dB)")
    )


def _bf16(network, folder):
    export.save_weights(network, folder / "bf16.safetensors", "bf16")
    return folder / "bf16.safetensors"


def test_bad_storage(tmp_path):
    with pytest.raises(InputError, match="unknown storage 'int8'; choose from: float32, bf16, auto"):
        export.save_weights(models.create("edsr", blocks=1, features=4), tmp_path / "w", "int8")


def test_folders_of_one_name_are_two_rows_of_a_card(folder, tmp_path):
    other = tmp_path / "other" / folder.name
    other.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(other / "b.png")
    config = quick(folder, test_folders=(str(folder), str(other), f"{folder}/"))
    train_sr.main(config, tmp_path / "run")
    lines = (tmp_path / "run" / "compact.md").read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.count("|") == 7][2:]
    assert rows == [f"{tmp_path.name}/Set1"] * 2 + ["other/Set1"] * 2


def test_names_of_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert patches.short_names(["a/HR", "b/HR", "x/b/HR/", "Set5", "tfds:div2k"]) == [
        *("a/HR", f"{tmp_path.name}/b/HR", "x/b/HR"),
        *("Set5", "tfds:div2k"),
    ]
    assert patches.short_names([".", "./Set5", "Set5"]) == [tmp_path.name, "Set5", "Set5"]


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("compact_4x1_x2", {"recipe": "mine"}, "config.recipe is no argument of .*: unknown argument 'mine'"),
        ("compact_4x1_x2", {"discriminator_features": 8}, "config.discriminator_features means nothing for"),
        (
            "srresnet_x2",
            {"loss": "srgan"},
            "field config.loss_weights is missing, which the loss srgan needs",
        ),
    ],
)
def test_what_would_be_missed_at_the_end_is_said_at_the_start(folder, tmp_path, recipe, changes, message):
    config = train_edsr.get_config(recipe)
    config.update({"train_folder": str(folder), **changes})
    with pytest.raises(InputError, match=message):
        train_sr.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_image_too_small_to_be_measured_is_told_before_the_training(folder, tmp_path):
    config = train_edsr.get_config("compact_4x1_x2")
    config.update({"train_folder": str(folder), "test_folders": [str(tmp_path / "small")]})
    (tmp_path / "small").mkdir()
    Image.new("RGB", (40, 15)).save(tmp_path / "small/a.png")
    with pytest.raises(InputError, match="small: an image of 40x15 pixels is too small"):
        train_sr.main(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["small_x2,squeezenet", "compact_x2,gpu,squeezenet"])
def test_squeezenet_is_for_an_srgan(recipe):
    with pytest.raises(InputError, match="squeezenet is for the perceptual loss of srgan_x2 and srgan_x4"):
        train_edsr.get_config(recipe)


def test_unknown_recipe():
    with pytest.raises(InputError, match=r"unknown argument 'tpu'; choose from: .*, gpu, squeezenet"):
        train_edsr.get_config("baseline_x2,tpu")


@pytest.mark.parametrize(
    "recipe",
    [
        *(
            "srresnet",
            "srgan",
            "srgan,gpu",
            "srresnet_x3",
            "srgan_x2x",
            "small",
            "small_x3",
            "edsr_small_x2",
        ),
        *("compact", "compact_24", "compact_24x6", "compact_24x6_x5", "compact_0x6_x2", "compact_x2_24x6"),
    ],
)
def test_unknown_recipes_are_answered_with_all(recipe):
    with pytest.raises(
        InputError, match=r"unknown argument .*; choose from: network=small_x2 .* srgan_x4 .*compact_24x6_x2"
    ):
        train_edsr.get_config(recipe)


def test_every_recipe_that_is_listed():
    for recipe in train_edsr.NETWORKS:
        assert train_edsr.get_config(recipe).network
        assert train_edsr.get_config(f"network={recipe},gpu").recipe == f"{recipe},gpu"
    assert dict(train_edsr.get_config("compact_32x7_x3").network_options) == {
        "features": 32,
        "convolutions": 7,
        "scale": 3,
    }


def test_identity_of_a_training():
    """Folders by their names; what may change between two runs is no part of it."""
    config = train_edsr.get_config("srgan_x2")
    before = train_sr.identity(config)
    config.update({"data": "x", "licence": "y", "test_folders": ("z",), "checkpoint_every": 7})
    assert train_sr.identity(config) == before
    config.train_folder, config.initial_weights = "/disk/me/sr_train/", "there/srresnet_x2.safetensors"
    found = train_sr.identity(config)
    assert (found["train_folder"], found["initial_weights"]) == ("sr_train", "srresnet_x2.safetensors")
    config.perceptual.scale = 0.5
    assert train_sr.identity(config) != found


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
    config = train_edsr.get_config("srgan_x2,squeezenet")
    config.update(
        {"train_folder": str(folder), "validation_folder": str(folder), "batch_size": 1, "steps": 2}
    )
    config.update({"initial_weights": str(tmp_path / "srresnet_x2.safetensors"), "patch": 16, "log_every": 1})
    train_sr.main(config, tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"srgan_x2.safetensors", "srgan_x2.md", "metrics.jsonl", "curve.png"} <= files
    trained = loading.flatten(models.create("srgan_x2", weights=tmp_path / "run/srgan_x2.safetensors"))
    start = loading.flatten(models.create("srresnet_x2", seed=3))
    moved = np.abs(trained["head.kernel"] - start["head.kernel"]).max()
    assert 0 < moved < 1e-3  # two small steps away from where it started
    assert "| Set1 | srgan_x2 |" in (tmp_path / "run/srgan_x2.md").read_text()
