"""The transfer matrix on small classifiers: who is attacked, who is asked, and about which images."""

import io
import json
import logging
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console
from toys import Pooled, make_dataset, make_experiment

from configs import transfer as configuration
from srdef import attacks, defenses
from srdef.commands import cli
from srdef.errors import InputError
from srdef.evaluation import progress, schema, transfer_matrix
from srdef.evaluation.experiment import CLEAN
from srdef.evaluation.programs import of_all, of_transfer
from srdef.reporting import transfer_files
from srdef.victims import Undefended


def experiments():
    """A classifier, one that is wrong about another image too, and one whose gradient points elsewhere."""
    base = make_experiment()
    dataset = make_dataset(base.classifier, count=9, wrong=(2,))
    other = Pooled()
    rng = np.random.default_rng(5)
    noisy = np.asarray(other.weights[...]) + 15 * rng.normal(size=(12, 4))
    other.weights = nnx.Param(noisy.astype(np.float32))
    shared = {
        "dataset": dataset,
        "attacks": {"FGSM": attacks.fgsm(0.05), "VMI": attacks.vmifgsm(0.1, steps=2, neighbours=2)},
        "storage": {"FGSM": "uint8", "VMI": "float32"},
        "defenses": {"none": defenses.Identity(), "WD": defenses.create("wavelet", sigma=0.1)},
        "passes": {},
        "batch_size": 4,
    }
    return {
        "a": replace(base, config={**base.config, "classifier": {"name": "a"}}, **shared),
        "b": replace(base, config={**base.config, "classifier": {"name": "b"}}, classifier=other, **shared),
    }


def test_what_is_compiled_ahead_is_what_runs(caplog):
    made = experiments()
    made = {
        # Nothing is fooled, so that no image leaves a batch.
        label: replace(
            experiment, attacks={"FGSM": attacks.fgsm(1e-6), "VMI": attacks.vmifgsm(1e-6, steps=2)}
        )
        for label, experiment in made.items()
    }
    jobs = of_transfer(made, 4, made["a"].dataset.image_shape)
    assert {stage[1] for stage in jobs} == {"transfer", "adversarial"}
    assert min(of_all(jobs.values())) > 0
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING, logger="jax")
    try:
        transfer_matrix.run(made, None, progress.Reporter())
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    assert not {"init", "steps", "result", "judged", "_first_pass", "_predict"} & set(compiled)


def test_every_cell_is_an_attack_on_the_source_judged_by_the_target(tmp_path):
    made = experiments()
    reporter = progress.Reporter(Console(file=io.StringIO()))
    matrix = transfer_matrix.run(made, tmp_path / "store", reporter)
    dataset = made["a"].dataset
    predictions = [np.asarray(e.classifier(dataset.images).argmax(-1)) for e in made.values()]
    rows = np.flatnonzero((predictions[0] == dataset.labels) & (predictions[1] == dataset.labels))
    assert 0 < matrix.images == len(rows) < 8
    assert len(matrix.cells) == 2 * 2 + 2 * 2 * 2 * 2
    for source, target in [("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]:
        # One batch of the same images and ids.
        result = attacks.transfer(
            made[source].attacks["FGSM"],
            Undefended(made[source].classifier),
            Undefended(made[target].classifier),
            dataset.images[rows],
            dataset.labels[rows],
            key=made[source].attack_key,
            ids=dataset.ids[rows],
            storage="uint8",
        )
        assert matrix.cells[source, "FGSM", target, "none"].successes == result.success.sum()
        assert matrix.cells[source, "FGSM", target, "none"].total == len(rows)
    assert matrix.cells["", CLEAN, "b", "none"].successes == 0
    itself = [matrix.cells[x, "VMI", x, "WD"].value for x in "ab"]
    assert matrix.mean("VMI", "WD", itself=True) == pytest.approx(np.mean(itself))
    others = [matrix.cells[x, "VMI", y, "WD"].value for x, y in ("ab", "ba")]
    assert matrix.mean("VMI", "WD", itself=False) == pytest.approx(np.mean(others))

    # A finished run computes nothing, and says the same.
    again = progress.Reporter(Console(file=io.StringIO()))
    assert transfer_matrix.run(experiments(), tmp_path / "store", again) == matrix
    assert again.computed == 0
    assert reporter.computed > 0

    transfer_files.write(tmp_path, matrix)
    numbers = json.loads((tmp_path / "transfer.json").read_text())
    assert numbers["images"] == matrix.images
    assert len(numbers["cells"]) == len(matrix.cells)
    text = (tmp_path / "transfer.md").read_text()
    assert "| attack | none: itself | none: others | WD: itself | WD: others |" in text
    cell = matrix.cells["a", "VMI", "b", "WD"]
    found = f"| VMI | a | {100 * matrix.cells['a', 'VMI', 'a', 'WD'].value:.0f} ["
    assert found in text
    assert f"{100 * cell.value:.0f} [{100 * cell.low:.0f}–{100 * cell.high:.0f}]" in text
    assert Image.open(tmp_path / "transfer.png").width > 300
    assert "float32" not in text
    assert "in bfloat16" in transfer_files.to_markdown(replace(matrix, arithmetic="bfloat16"))


def test_images_that_no_two_classifiers_share_are_refused():
    made = experiments()
    wrong = made["a"].dataset.labels + 1
    dataset = replace(made["a"].dataset, labels=(wrong % 4).astype(np.int32))
    made = {label: replace(experiment, dataset=dataset) for label, experiment in made.items()}
    with pytest.raises(InputError, match="none of the 9 images is classified correctly by all"):
        transfer_matrix.run(made, None, progress.Reporter())


@pytest.mark.parametrize("argument", ["", "nips", "few"])
def test_the_configuration_names_what_there_is(argument):
    config = cli.plain(configuration.get_config(argument))
    schema.check("transfer", config)
    assert set(config["columns"]) <= set(config["attacks"])
    assert {entry["name"] for entry in config["attacks"].values()} <= set(attacks.list_names())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arithmetic": "fp8"}, "unknown arithmetic 'fp8'; choose from: float32, tensorfloat32, bfloat16"),
        ({"columns": ["BIM"]}, "config.columns: config.attacks has no 'BIM'; choose from: "),
        ({"rows": ["JPEG"]}, "config.rows: config.defenses has no 'JPEG'; choose from: "),
        ({"classifiers": {"one": {"name": "squeezenet"}}}, "config.classifiers must be at least two"),
        ({"attacks": {"clean": {"name": "fgsm"}}, "columns": []}, "'clean' is always there"),
        (
            {"attacks": {"I": {"name": "ifgsm", "step_size": 0}}, "columns": []},
            r'^config\.attacks\["I"\]: step_size must be greater than 0, but is 0',
        ),
        (
            {"defenses": {"W": {"name": "wavelet", "sigma": -1}}, "rows": []},
            r'^config\.defenses\["W"\]: wavelet: sigma must be a number from 0',
        ),
    ],
)
def test_bad_configurations_are_named(change, message):
    config = cli.plain(configuration.get_config("few"))
    names = {"a": {"name": "squeezenet"}, "b": {"name": "squeezenet"}}
    config = {**config, "classifiers": names, **change}
    with pytest.raises(InputError, match=message):
        transfer_matrix.resolve(config)


def test_a_bank_of_clean_patches_of_the_evaluated_images_is_refused():
    config = cli.plain(configuration.get_config("few"))
    bank = {"dataset": config["dataset"], "count": 10}
    config |= {"classifiers": {name: {"name": "squeezenet"} for name in "ab"}, "rows": []}
    config["defenses"] = {"Q": {"name": "quilting", "bank": bank}}
    with pytest.raises(InputError, match="defense 'Q': its patch bank would be made of the images"):
        transfer_matrix.resolve(config)


def test_a_bank_is_made_of_the_images():
    config = cli.plain(configuration.get_config())
    config["classifiers"] = {"a": {"name": "squeezenet"}, "b": {"name": "squeezenet"}}
    config["columns"] = ["Admix"]
    config["dataset"] |= {"size": 32, "limit": 2}
    schema.check("transfer", config)
    made = transfer_matrix.resolve(config)["b"]
    np.testing.assert_array_equal(made.attacks["Admix"].views[0].bank.images, made.dataset.images)
    config["attacks"]["Admix"]["bank"] = [1]
    with pytest.raises(InputError, match="has no option 'bank'"):
        schema.check("transfer", config)
