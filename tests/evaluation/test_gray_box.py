"""The protocol on a small classifier, in this process."""

import collections
import io
import json
import logging
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from toys import CLASSES, Pooled, make_dataset, make_experiment

from srdef import attacks, defenses
from srdef.errors import InputError
from srdef.evaluation import gray_box, progress
from srdef.evaluation.experiment import make_defense, split_entry
from srdef.evaluation.predictions import classify, predict
from srdef.evaluation.run import Run
from srdef.reporting import gray_box_files, tables
from srdef.reporting import page as report


@pytest.fixture
def reporter():
    return progress.Reporter(Console(quiet=True))


def test_records_and_their_counts(tmp_path, reporter):
    experiment = make_experiment()
    outcome = gray_box.run(experiment, tmp_path, reporter)
    rows = outcome.records.to_pylist()
    assert len(rows) == 7 * 2 + 6 * 2 * 3
    assert {row["image_id"] for row in rows if not row["clean_correct"]} == {12}
    assert {row["attack"] for row in rows if row["image_id"] == 12} == {"clean"}
    table = gray_box_files.build_table(experiment, outcome.records).summary
    assert table.cells["none", "clean"].successes == table.clean.successes == 6
    assert table.cells["none", "FGSM-9"].total == 6
    # The attack works here, and what it returned is what was classified.
    assert table.cells["none", "FGSM-9"].successes < 6
    attacked = [row for row in rows if row["attack"] == "FGSM-9" and row["defense"] == "none"]
    assert all(row["fooled"] != row["correct"] for row in attacked)
    assert [(strength.attack, strength.storage) for strength in outcome.strengths] == [
        ("FGSM-2", "uint8"),
        ("FGSM-9", "uint8"),
        ("I-FGSM", "float32"),
        ("I-FGSM", "uint8"),
    ]
    assert outcome.strengths[1].success.successes == sum(row["fooled"] for row in attacked)
    assert outcome.strengths[3].linf == pytest.approx(9 / 255, abs=1e-6)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_classifier_that_does_not_take_what_a_defense_makes_is_named(tmp_path, reporter, passes):
    made = {"none": defenses.Identity(), "rp": defenses.create("resize_pad")}
    experiment = replace(make_experiment(), defenses=made, passes={"rp": passes})
    message = r"^Pooled does not take images of 9x9x3, as ResizePad makes them: TypeError: "
    with pytest.raises(InputError, match=message):
        gray_box.run(experiment, tmp_path, reporter)
    pixels = np.zeros((2, 5, 5, 3), np.float32)
    with pytest.raises(InputError, match=r"^Pooled does not take images of 5x5x3: TypeError: "):
        predict(experiment.classifier, pixels)


def test_a_finished_run_computes_nothing(tmp_path, reporter):
    first = gray_box.run(make_experiment(), tmp_path, reporter)
    again = progress.Reporter(Console(quiet=True))
    second = gray_box.run(make_experiment(), tmp_path, again)
    assert reporter.computed > 0
    assert again.computed == 0
    assert second.records.equals(first.records)


def test_new_labels_compute_nothing(tmp_path, reporter):
    first = gray_box.run(make_experiment(), tmp_path, reporter)
    renamed = make_experiment()
    renamed = replace(
        renamed,
        attacks={f"my {label}": attack for label, attack in renamed.attacks.items()},
        storage={f"my {label}": storage for label, storage in renamed.storage.items()},
        defenses={f"my {label}": defense for label, defense in renamed.defenses.items()},
        passes={f"my {label}": passes for label, passes in renamed.passes.items()},
    )
    again = progress.Reporter(Console(quiet=True))
    second = gray_box.run(renamed, tmp_path, again)
    assert again.computed == 0
    labels = {"attack", "defense"}
    others = [name for name in first.records.column_names if name not in labels]
    assert second.records.select(others).equals(first.records.select(others))
    assert {row["defense"] for row in second.records.to_pylist()} == {"my none", "my WD"}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_do_not_change_the_records(tmp_path, reporter, batch_size):
    expected = gray_box.run(make_experiment(), tmp_path / "a", reporter).records
    records = gray_box.run(make_experiment(batch_size=batch_size), tmp_path / "b", reporter).records
    exact = [name for name in records.column_names if name not in ("confidence", "linf", "l2")]
    assert records.select(exact).equals(expected.select(exact))
    for name in ("confidence", "linf", "l2"):
        # Sums over another batch shape may differ in the last bit; this classifier multiplies them by 40.
        np.testing.assert_allclose(records[name].to_numpy(), expected[name].to_numpy(), atol=1e-5)


@pytest.mark.slow
def test_every_program_is_compiled_once(tmp_path, reporter, caplog):
    """Three batches, the last of them padded; attacks that differ in ε and steps alone share a program."""
    jax.clear_caches()
    jax.config.update("jax_log_compiles", True)  # in all threads; the context manager is for this one
    try:
        with caplog.at_level(logging.WARNING):
            gray_box.run(make_experiment(), tmp_path, reporter)
    finally:
        jax.config.update("jax_log_compiles", False)
    compiled = collections.Counter(
        match[1]
        for record in caplog.records
        if (match := re.match(r"Compiling jit\((\w+)\)", record.getMessage()))
    )
    assert compiled["_predict"] == 2  # one for each defense; clean and adversarial images share them
    assert make_experiment().attacks["I-FGSM"].max_steps > 1
    assert compiled["steps"] == compiled["init"] == 1


def test_the_predicted_class_can_be_the_label(tmp_path, reporter):
    experiment = make_experiment()
    unlabelled = replace(experiment.dataset, labels=np.full(7, -1, np.int32))
    outcome = gray_box.run(replace(experiment, dataset=unlabelled), tmp_path, reporter)
    assert len(outcome.correct.dataset) == 7
    predictions = np.asarray(experiment.classifier(unlabelled.images).argmax(-1))
    np.testing.assert_array_equal(outcome.everything.dataset.labels, predictions)


def test_only_missing_labels_are_predicted():
    experiment = make_experiment()
    predicted = np.asarray(experiment.classifier(experiment.dataset.images).argmax(-1))
    labels = np.where([True, False, False, True, False, False, False], -1, experiment.dataset.labels)
    run, correct = Run(experiment, replace(experiment.dataset, labels=labels.astype(np.int32))).labelled()
    assert run.dataset.labels.tolist() == [predicted[0], *labels[1:3], predicted[3], *labels[4:]]
    assert correct.tolist() == [True, True, False, True, True, True, True]  # as toys.make_dataset says
    assert labels[0] == -1


def test_predict_is_the_undefended_classifier():
    experiment = make_experiment()
    images = experiment.dataset.images
    expected = np.asarray(experiment.classifier(images).argmax(-1))
    np.testing.assert_array_equal(predict(experiment.classifier, images, 3), expected)


def test_no_image_right(tmp_path, reporter):
    experiment = make_experiment(dataset=make_dataset(Pooled(), wrong=range(7)))
    with pytest.raises(InputError, match="pooled classifies none of the 7 images correctly"):
        gray_box.run(experiment, tmp_path, reporter)


def test_other_weights_are_another_experiment(tmp_path, reporter):
    gray_box.run(make_experiment(), tmp_path, reporter)
    experiment = make_experiment()
    experiment.classifier.weights[...] = 1.01 * experiment.classifier.weights[...]
    again = progress.Reporter(Console(quiet=True))
    gray_box.run(experiment, tmp_path, again)
    assert again.computed == reporter.computed


def test_random_defenses_and_attacks_follow_the_seed(tmp_path, reporter):
    folders = [path.name for path in (tmp_path / "a", tmp_path / "b")]
    for folder, seed in zip(folders, (0, 1), strict=True):
        gray_box.run(make_experiment(seed=seed), tmp_path / folder, reporter)
    names = [{path.name for path in (tmp_path / folder / "adversarial").iterdir()} for folder in folders]
    assert not names[0] & names[1]


def test_passes_average_the_probabilities_of_a_random_defense():
    experiment = make_experiment()
    defense = defenses.create("shield")
    batch, ids = experiment.dataset.images, experiment.dataset.ids
    result = classify(experiment, defense, batch, ids, passes=3)
    expected = np.zeros((7, CLASSES))
    for row, (image, image_id) in enumerate(zip(batch, ids, strict=True)):
        key = jax.random.fold_in(experiment.defense_key, image_id)
        for draw in range(3):
            defended = defense(image, jax.random.fold_in(key, draw))
            expected[row] += np.asarray(jax.nn.softmax(experiment.classifier(defended[None])[0])) / 3
    np.testing.assert_array_equal(result["prediction"], expected.argmax(-1))
    np.testing.assert_allclose(result["confidence"], expected.max(-1), atol=1e-5)


def test_specifications():
    defense = make_defense([{"name": "bit_depth", "bits": 3}, {"name": "wavelet"}])
    assert isinstance(defense, defenses.Sequential)
    with pytest.raises(InputError, match="`name`"):
        make_defense({"bits": 3})
    assert split_entry({"name": "resize_pad", "passes": 4}) == ({"name": "resize_pad"}, {"passes": 4})
    steps = [{"name": "wavelet"}, {"name": "jpeg"}]
    assert split_entry({"defense": steps, "paper": "WD+SR"}) == (steps, {"paper": "WD+SR"})
    assert split_entry(steps) == (steps, {})


def test_a_defense_that_declares_it_gets_the_classifier():
    classifier = Pooled()
    classifier.classifier = nnx.Linear(3, CLASSES, rngs=nnx.Rngs(0))
    made = make_defense([{"name": "pixel_deflection"}, {"name": "wavelet"}], classifier)
    assert made.defenses[0].classifier is classifier
    assert make_defense({"name": "pixel_deflection", "classifier": None}, classifier).classifier is None


def test_in_memory_and_in_a_folder_a_run_finds_the_same(tmp_path, reporter):
    experiment = make_experiment()
    kept, passing = (gray_box.run(experiment, folder, reporter) for folder in (tmp_path, None))
    assert kept.records.equals(passing.records)
    assert kept.strengths == passing.strengths
    np.testing.assert_array_equal(kept.correct.pixels("I-FGSM"), passing.correct.pixels("I-FGSM"))
    computed = reporter.computed
    np.testing.assert_array_equal(
        passing.correct.pixels("I-FGSM", slice(3)), kept.correct.pixels("I-FGSM")[:3]
    )
    assert reporter.computed == computed


def test_what_went_wrong_in_an_attack_is_stored_and_shown(tmp_path, reporter, monkeypatch):
    """Two images without a gradient, one with something that was not finite, in the first attack only."""
    perturb = attacks.perturb

    def flagged(attack, victim, images, *arguments, **options):
        result = perturb(attack, victim, images, *arguments, **options)
        first = attack.epsilon == make_experiment().attacks["FGSM-2"].epsilon
        zero = np.isin(options["ids"], [11, 13]) & first
        flags = {"zero_gradient": zero, "nonfinite": (options["ids"] == 14) & first}
        return SimpleNamespace(**{**vars(result), **flags})

    experiment = make_experiment()
    monkeypatch.setattr(attacks, "perturb", flagged)
    outcome = gray_box.run(experiment, tmp_path / "store", reporter)
    assert [(s.zero_gradient, s.nonfinite) for s in outcome.strengths] == [(2, 1), (0, 0), (0, 0), (0, 0)]
    rows = [row for row in outcome.records.to_pylist() if row["attack"] == "FGSM-2"]
    assert {row["image_id"] for row in rows if row["zero_gradient"]} == {11, 13}
    assert {row["image_id"] for row in rows if row["nonfinite"]} == {14}
    gray_box_files.write(tmp_path, experiment, outcome)
    assert (
        "> Warning: FGSM-2 (stored as uint8): for 2 of 6 images a gradient was"
        in (tmp_path / "table.md").read_text()
    )
    numbers = json.loads((tmp_path / "attacks.json").read_text())
    assert [row.get("nonfinite") for row in numbers] == [1, None, None, None]
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(tables.attacks_to_rich(outcome.strengths))
    page = report.build(tmp_path, count=0)
    for text in (console.export_text(), page):
        assert (
            "FGSM-2 (stored as uint8): for 1 of 6 images a gradient, a loss or a logit was not finite" in text
        )


def test_only_another_arithmetic_is_another_run_and_said(tmp_path, reporter):
    plain = make_experiment()

    def run(**changes):
        experiment = replace(plain, config={**plain.config, **changes})
        return Run(experiment, experiment.dataset, tmp_path, reporter)

    names = [
        run(**changes).adversarial("FGSM-2").path.name
        for changes in ({}, {"arithmetic": "float32"}, {"arithmetic": "bfloat16"})
    ]
    assert names[0] == names[1] != names[2]
    lower = run(arithmetic="bfloat16").experiment
    outcome = gray_box.run(lower, tmp_path, reporter)
    gray_box_files.write(tmp_path, lower, outcome)
    assert "Attacks took their steps in bfloat16;" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "environment.json").read_text())["attack_arithmetic"] == "bfloat16"
    notes = gray_box_files.build_table(plain, outcome.records).notes
    assert not any("steps" in note for note in notes)
    assert "attack_arithmetic" not in gray_box_files.environment(plain.arithmetic)


def test_the_environment_names_the_frameworks_that_were_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="9.8"))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "equinox", raising=False)
    found = gray_box_files.environment()
    assert (found["torch"], found["timm"], "equinox" in found) == ("9.8", "unknown", False)


def test_reports_of_another_configuration_go_with_it(tmp_path, reporter):
    first = make_experiment()
    gray_box_files.write(tmp_path, first, gray_box.run(first, tmp_path / "store", reporter))
    for name in ("report.html", "gallery.png"):
        (tmp_path / name).write_text("of the first")
    other = replace(first, config={**first.config, "seed": 1}, seed=1)
    outcome = gray_box.run(other, tmp_path / "store", reporter)
    gray_box_files.write(tmp_path, first, gray_box.run(first, tmp_path / "store", reporter))
    assert (tmp_path / "report.html").exists()
    gray_box_files.write(tmp_path, other, outcome)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "gallery.png").exists()
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_reports_of_other_images_go_with_them(tmp_path, reporter):
    """The configuration is the same, and the folder that it names holds other images."""
    experiment = make_experiment()
    fewer = replace(experiment, dataset=experiment.dataset.select(slice(4)))
    for number, one in enumerate((experiment, experiment, fewer)):
        if number == 1:
            for name in ("report.html", "epsilon_curves.md", "trace.png"):
                (tmp_path / name).write_text("of the first")
        gray_box_files.write(tmp_path, one, gray_box.run(one, tmp_path / "store", reporter))
        assert (tmp_path / "report.html").exists() == (number == 1)
    assert not {"epsilon_curves.md", "trace.png"} & {path.name for path in tmp_path.iterdir()}


def test_a_run_that_writes_its_setting_first_leaves_no_results_of_another(tmp_path):
    """As `adaptive` and `transfer` do: stopped then, the folder has nothing that is not of the new run."""
    (tmp_path / "config.json").write_text("{}")
    for name in ("adaptive.json", "records.parquet", "transfer.json", "report.html"):
        (tmp_path / name).write_text("of another run")
    gray_box_files.write_setting(tmp_path, {"seed": 1}, None)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "environment.json"}
