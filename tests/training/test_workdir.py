"""What the folder of a training is of: a continuation, a card written again, and another training."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from training_cards import quick, rows_of

from srdef import batching, models
from srdef.commands import train_sr
from srdef.errors import InputError, SrdefWarning
from srdef.training import patches, super_resolution
from srdef.weights import loading


@pytest.fixture
def folder(tmp_path, rng):
    folder = tmp_path / "Set1"
    folder.mkdir()
    noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    noise.resize((80, 80), Image.Resampling.BICUBIC).save(folder / "a.png")
    return folder


def test_a_workdir_of_another_configuration_is_refused(folder, tmp_path):
    workdir = tmp_path / "run"
    train_sr.main(quick(folder), workdir)
    kept = (workdir / "compact.safetensors").read_bytes()
    train_sr.main(quick(folder, licence="CC0"), workdir)  # changes the card, which is written again
    assert "CC0" in (workdir / "compact.md").read_text()
    for changes, message in (
        ({"learning_rate": 1e-3}, "learning_rate is 0.002 there and 0.001 here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"train_folder": "data/Set2"}, "train_folder is 'Set1' there and 'Set2' here"),
        ({"minutes": 1.0}, "minutes is 0.0 there and 1.0 here"),
        ({"network_options": {"features": 5}}, "network_options is"),
    ):
        with pytest.raises(
            InputError, match=f"{workdir} holds a training of another configuration: {message}"
        ):
            train_sr.main(quick(folder, **changes), workdir)
    assert (workdir / "compact.safetensors").read_bytes() == kept
    (workdir / "config.json").unlink()
    with pytest.raises(InputError, match=r"run holds a training without its config\.json"):
        train_sr.main(quick(folder), workdir)
    (workdir / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        train_sr.main(quick(folder), workdir)


def test_other_images_in_a_folder_of_the_same_name_are_another_training(folder, tmp_path, rng):
    """The finished one is not passed off as theirs, and one from other weights neither."""
    workdir, other, start = tmp_path / "run", tmp_path / "other/Set1", tmp_path / "start.safetensors"
    shutil.copytree(folder, other)
    loading.save_safetensors(models.create("compact", convolutions=1, features=4, scale=2, seed=5), start)
    train_sr.main(quick(folder, initial_weights=str(start)), workdir)
    train_sr.main(quick(other, initial_weights=str(start)), workdir)  # the same images elsewhere
    kept = (workdir / "compact.safetensors").read_bytes()
    loading.save_safetensors(models.create("compact", convolutions=1, features=4, scale=2, seed=6), start)
    with pytest.raises(InputError, match=r"another initial_weights of this name: what is in .*start\.safe"):
        train_sr.main(quick(other, initial_weights=str(start)), workdir)
    noise = rng.integers(0, 256, (80, 80, 3), np.uint8)
    Image.fromarray(noise).save(other / "b.png")
    with pytest.raises(InputError, match=r"another train_folder of this name: what is in .*other/Set1 is"):
        train_sr.main(quick(other, initial_weights=str(start)), workdir)
    assert (workdir / "compact.safetensors").read_bytes() == kept
    description = json.loads((workdir / "config.json").read_text())
    del description["contents"]  # as an older srdef wrote it
    (workdir / "config.json").write_text(json.dumps(description))
    train_sr.main(quick(other, initial_weights=str(start)), workdir)


def test_test_folders_of_one_name_and_a_lost_log(folder, tmp_path, monkeypatch):
    """Each has its rows in the card; and a card can be written without the log of the training."""
    folders = [tmp_path / name / "HR" for name in ("Set5", "Set14")]
    for place in folders:
        shutil.copytree(folder, place)
    config = quick(folder, test_folders=tuple(map(str, folders)))
    devices, mesh = jax.devices(), batching.data_mesh()
    monkeypatch.setattr(jax, "devices", lambda: devices * 2)  # another process's too
    monkeypatch.setattr(batching, "data_mesh", lambda _: mesh)
    train_sr.main(config, tmp_path / "run")
    card = (tmp_path / "run/compact.md").read_text()
    assert [line.split(" | ")[0] for line in card.splitlines() if "bicubic" in line and "|" in line] == [
        "| Set5/HR",
        "| Set14/HR",
    ]
    assert rows_of(card)["device"].startswith("2 x ")
    (tmp_path / "run/metrics.jsonl").unlink()
    train_sr.main(config, tmp_path / "run")
    rows = rows_of((tmp_path / "run/compact.md").read_text())
    assert "time" not in rows
    assert rows["recipe"].startswith("L1, 2 planned steps of 1 patches")


def test_steps_are_not_planned_without_a_log(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(train_sr.budget, "fit_steps", lambda config, records: 6)
    config = quick(folder, minutes=10.0, warmup_steps=4, steps=9)
    train_sr.train(config, tmp_path, patches.read_folder(folder))
    for name in ("plan.json", "metrics.jsonl"):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"holds checkpoints and no metrics\.jsonl, which says how fast"):
        train_sr.train(config, tmp_path, patches.read_folder(folder))


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[]", *(f'{{"steps": {n}}}' for n in ("null", "1e999", "-3", "true", "2.5", "3000000000"))],
)
def test_a_damaged_plan_is_named(folder, tmp_path, content):
    """Other steps than were planned would be another learning rate in the middle of a training."""
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json is damaged \(.*\): delete it"):
        train_sr.main(quick(folder, minutes=1.0), tmp_path)


def test_a_run_that_was_refused_does_not_keep_its_folder(folder, tmp_path):
    for wrong, message in (
        ({"train_folder": str(folder / "typo")}, "typo"),
        ({"batch_size": 10**12}, "can never fit"),
    ):
        with pytest.raises(InputError, match=message):
            train_sr.main(quick(folder, **wrong), tmp_path / "run")
    train_sr.main(quick(folder), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train_folder"] == "Set1"


def test_images_that_are_trained_on_are_no_test(folder, tmp_path, rng):
    """By their pixels, whatever their files are called: a warning, and a line in the card."""
    tested = tmp_path / "Test"
    tested.mkdir()
    Image.open(folder / "a.png").save(tested / "other-name.bmp")
    other = Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8))
    other.save(tested / "b.png")
    validation = tmp_path / "Validation"
    validation.mkdir()
    other.rotate(90).save(validation / "a.png")
    config = quick(folder, validation_folder=str(validation), test_folders=(str(tested), str(validation)))
    with pytest.warns(SrdefWarning) as warnings:
        train_sr.main(config, tmp_path / "run")
    assert [str(w.message) for w in warnings if "among the training" in str(w.message)] == [
        f"1 of the 2 images in {tested} are among the training images: PSNR and SSIM there say how well they "
        "are remembered"
    ]
    card = (tmp_path / "run/compact.md").read_text()
    assert card.count("were trained on") == 1
    assert "1 of the 2 images in Test were trained on: no test of this network." in card
    with pytest.warns(SrdefWarning, match=r"1 of the 2 images in .*Test are among the training images"):
        super_resolution.train(
            models.create("compact", convolutions=1, features=4, scale=2),
            quick(folder, validation_folder=str(tested)),
            tmp_path / "alone",
        )
