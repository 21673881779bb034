"""The adaptive evaluation on a small linear classifier."""

import csv
import json
import logging
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console

from configs import adaptive as config_module
from configs import quickstart
from srdef import attacks
from srdef.commands import cli
from srdef.datasets import Dataset
from srdef.errors import InputError
from srdef.evaluation import adaptive, adaptive_checks, progress, schema
from srdef.evaluation import experiment as gray_box
from srdef.evaluation.adaptive_experiment import AdaptiveExperiment, resolve
from srdef.evaluation.adaptive_outcome import Outcome
from srdef.evaluation.experiment import CLEAN, make_defense, split_entry
from srdef.evaluation.predictions import predict
from srdef.evaluation.programs import of_all, of_threats
from srdef.evaluation.run import Run
from srdef.evaluation.threats import WORST, Threat, make_threat
from srdef.reporting import adaptive_files, adaptive_plots, adaptive_tables
from srdef.victims import ExpectationOverTransformation

CLASSES = 4
EPSILONS = (0.004, 0.02, 0.1)


class Linear(nnx.Module):
    """Logits linear in the image's 8 x 8 means, whatever its size."""

    def __init__(self, seed):
        weights = np.random.default_rng(seed).normal(size=(8 * 8 * 3, CLASSES))
        self.weights = nnx.Param(jax.numpy.asarray(weights - weights.mean(axis=0), jax.numpy.float32))
        self.num_classes = CLASSES

    def __call__(self, images):
        small = jax.image.resize(images, (len(images), 8, 8, 3), "linear")
        return small.reshape(len(images), -1) @ self.weights[...]


DEFENSES = {
    "none": {"name": "identity"},
    "WD": {"name": "wavelet", "sigma": 0.04},
    "JPEG": {"name": "jpeg"},
    "JPEG, surrogate": {
        "defense": {"name": "jpeg"},
        "surrogate": {"name": "jpeg", "gradient": "straight_through"},
    },
    "random": {"name": "resize_pad"},
}
THREATS = {
    "gray box": {"knows": "classifier", "attack": {"name": "ifgsm", "steps": 4}},
    "transfer": {"knows": "other classifier", "attack": {"name": "ifgsm", "steps": 4}},
    "BPDA": {"knows": "identity", "attack": {"name": "ifgsm", "steps": 4}},
    "exact": {"knows": "gradient", "attack": {"name": "ifgsm", "steps": 4}},
    "EOT": {"knows": "expectation", "attack": {"name": "ifgsm", "steps": 4}, "draws": 3, "epsilons": (0.02,)},
}


@pytest.fixture(scope="module")
def experiment():
    classifier = Linear(0)
    images = np.random.default_rng(1).uniform(0.2, 0.8, (9, 16, 16, 3)).astype(np.float32)
    labels = np.array(classifier(images).argmax(axis=-1), np.int32)
    labels[4] = (labels[4] + 1) % CLASSES  # one that is not classified correctly
    dataset = Dataset(
        pixels=images,
        labels=labels,
        ids=np.arange(9, dtype=np.uint32),
        names=tuple(f"image {i}" for i in range(9)),
        class_names=tuple("abcd"),
    )
    checks = {"epsilon": 0.1, "images": 3, "steps": 3, "queries": 10, "draws": 2, "effort": 3}
    named = {"classifier": {"name": "linear"}, "other_classifier": {"name": "linear"}}
    entries = {label: split_entry(entry, ("surrogate",)) for label, entry in DEFENSES.items()}
    return AdaptiveExperiment(
        config={**named, "defenses": DEFENSES, "threats": THREATS, "checks": checks},
        dataset=dataset,
        classifier=classifier,
        attacks={},
        storage={},
        defenses={label: make_defense(entry) for label, (entry, _) in entries.items()},
        passes={},
        batch_size=5,
        seed=0,
        other=Linear(7),
        surrogates={
            label: make_defense(beside["surrogate"]) for label, (_, beside) in entries.items() if beside
        },
        threats={label: make_threat(label, entry, EPSILONS) for label, entry in THREATS.items()},
        epsilons=EPSILONS,
        norm="linf",
        final_draws=4,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adaptive")


def reporter():
    return progress.Reporter(Console(quiet=True))


@pytest.fixture(scope="module")
def outcome(experiment, folder):
    return adaptive.run(experiment, folder, reporter())


@pytest.mark.slow
def test_what_is_compiled_ahead_is_what_runs(experiment, caplog):
    """At an ε so small that nothing is fooled: no image leaves a batch, and no smaller one is compiled."""
    epsilons = (1e-6,)
    threats = {label: make_threat(label, entry, EPSILONS) for label, entry in THREATS.items()}
    threats["EOT"] = replace(threats["EOT"], epsilons=epsilons)
    # Of a size of its own: programs of other tests are no witnesses.
    chosen = {label: experiment.defenses[label] for label in ("none", "random")}
    tried = replace(experiment, epsilons=epsilons, threats=threats, batch_size=4, defenses=chosen)
    jobs = of_threats(tried, 4, tried.dataset.image_shape)
    assert {kind for kind, *_ in jobs} == {"clean", "adversarial", "shares"}
    assert min(of_all(jobs.values())) > 0
    jax.config.update("jax_log_compiles", True)
    caplog.set_level(logging.WARNING, logger="jax")
    try:
        found = adaptive.run(tried, None, reporter())
    finally:
        jax.config.update("jax_log_compiles", False)
    assert found.accuracy("none", "exact")[0] == 1
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    assert not {"init", "steps", "result", "judged", "_correct"} & set(compiled)


@pytest.mark.slow
def test_denominator_is_what_the_classifier_has_right(outcome):
    assert outcome.images == 8
    np.testing.assert_array_equal(outcome.accuracy("none", CLEAN), [1, 1, 1])


@pytest.mark.slow
def test_who_can_attack_what(outcome):
    attacked = {defense: {t for d, t in outcome.judged if d == defense} for defense in DEFENSES}
    everyone = {CLEAN, "gray box", "transfer", "BPDA"}
    assert attacked["none"] == attacked["WD"] == attacked["JPEG, surrogate"] == everyone | {"exact"}
    # Its own gradient is zero and it is not random.
    assert attacked["JPEG"] == everyone
    assert attacked["random"] == everyone | {"exact", "EOT"}
    np.testing.assert_array_equal(np.isnan(outcome.accuracy("random", "EOT")), [True, False, True])
    assert not np.isnan(outcome.accuracy("random", WORST)).any()


@pytest.mark.slow
def test_knowledge_helps(outcome):
    """On a linear classifier the gradient attacks are optimal, so who sees the defense does no worse."""
    for defense in ("none", "WD"):
        gray, exact = outcome.accuracy(defense, "gray box"), outcome.accuracy(defense, "exact")
        assert (exact <= gray + 1e-6).all()
        assert exact[-1] < 0.5
    # Without a defense the three are one attack.
    np.testing.assert_array_equal(outcome.accuracy("none", "BPDA"), outcome.accuracy("none", "exact"))
    np.testing.assert_array_equal(outcome.judged["none", "BPDA"], outcome.judged["none", "gray box"])


@pytest.mark.slow
def test_accuracy_falls_with_epsilon_and_the_worst_case_is_the_worst(outcome):
    for defense in DEFENSES:
        for threat in ("BPDA", "exact"):
            accuracy = outcome.accuracy(defense, threat)
            if accuracy is not None and defense != "random":
                assert (np.diff(accuracy) <= 0).all()
        if defense != "random":
            worst = outcome.accuracy(defense, WORST)
            others = [outcome.accuracy(defense, t) for t in (CLEAN, *THREATS)]
            assert (worst <= np.min([o for o in others if o is not None], axis=0) + 1e-6).all()


@pytest.mark.slow
def test_random_defenses_are_shares_of_draws(outcome):
    shares = outcome.judged["random", "EOT"][:, 1]
    np.testing.assert_allclose(shares * 2, np.round(shares * 2))  # two draws judge, two choose
    for defense in ("none", "WD", "JPEG"):
        assert outcome.chosen[defense, "BPDA"] is outcome.judged[defense, "BPDA"] or np.array_equal(
            outcome.chosen[defense, "BPDA"], outcome.judged[defense, "BPDA"]
        )


@pytest.mark.parametrize(
    ("norm", "epsilons", "words"), [("l2", (0.01, 3.5), "L2 ε = 3.5"), ("l1", (0.1, 60.0), "L1 ε = 60")]
)
def test_other_norms_and_radii_above_1(experiment, tmp_path, norm, epsilons, words):
    entry = {"knows": "gradient", "attack": {"name": "apgd", "steps": 20, "norm": norm}}
    threats = {"exact": make_threat("exact", entry, epsilons)}
    other = replace(
        experiment,
        threats=threats,
        epsilons=epsilons,
        norm=norm,
        defenses={"none": experiment.defenses["none"]},
    )
    outcome = adaptive.run(other, None, reporter())
    accuracy = outcome.accuracy("none", "exact")
    assert accuracy[0] > accuracy[1]
    text = adaptive_tables.to_markdown(outcome)
    assert f"Accuracy in % at {words} on 8 images that the undefended classifier classifies correctly" in text
    assert json.loads(adaptive_tables.to_json(outcome))["norm"] == norm
    adaptive_plots.save_curves(tmp_path / "curves.png", outcome)
    with pytest.raises(InputError, match=f"nothing was attacked with ε 7; choose from: {epsilons[0]:g}, "):
        adaptive_tables.rows(outcome, 7)
    if norm == "l1":
        with pytest.raises(InputError, match="run with --nochecks"):
            adaptive_checks.run(other, tmp_path, reporter())


def test_an_experiment_in_l2_is_configured_by_its_attacks():
    threat = {"knows": "gradient", "attack": {"name": "apgd", "norm": "l2"}}
    defenses = {"none": {"name": "identity"}}
    checks = {**config_of_samples()["checks"], "epsilon": 2.0}
    config = config_of_samples(threats={"exact": threat}, defenses=defenses, checks=checks)
    config |= {"epsilons": (0.5, 2.0), "rows": (), "columns": ()}
    schema.check("adaptive", config)
    found = resolve(config)
    assert found.norm == "l2"
    assert found.epsilons == (0.5, 2.0)


def test_a_bank_of_images_is_that_of_the_data_set(experiment):
    threat = Threat("gradient", {"name": "admix", "steps": 2})
    images = experiment.dataset.images
    assert threat.make(0.1, images=images) == attacks.admix(0.1, steps=2, bank=images)
    assert threat.make(0.1, images=images) != attacks.admix(0.1, steps=2, bank=images[1:])
    schema.check("adaptive", config_of_samples(threats={"x": {"knows": "gradient", "attack": threat.attack}}))
    config = quickstart.get_config().to_dict()
    config |= {
        "attacks": {"Admix": {"name": "admix", "epsilon": 0.1}},
        "defenses": {"none": {"name": "identity"}},
    }
    config["dataset"] = {"name": "imagenet_samples", "size": 32, "limit": 3}
    schema.check("evaluation", config)
    found = gray_box.resolve(config)
    assert found.attacks["Admix"] == attacks.admix(0.1, bank=found.dataset.images)


def test_scores_of_a_random_defense_are_means_over_draws_that_all_count(experiment):
    threat = Threat("scores", {"name": "square", "queries": 50}, draws=8)
    victim = experiment.victim(threat, "random")
    assert isinstance(victim, ExpectationOverTransformation)
    assert (victim.draws, victim.average, victim.victim.gradient) == (8, "logits", "identity")
    random, deterministic = threat.make(0.1, random=True), threat.make(0.1)
    assert (random.queries, random.stop_early) == (50, False)
    images = experiment.dataset.images[:2]
    result = attacks.perturb(random, victim, images, experiment.dataset.labels[:2], key=jax.random.key(0))
    assert (result.steps == 6).all()  # of 8 draws each
    assert (deterministic.queries, deterministic.stop_early) == (50, True)
    assert not isinstance(experiment.victim(threat, "WD"), ExpectationOverTransformation)


def test_what_went_wrong_in_an_attack_is_under_the_table_of_its_epsilon():
    shares = np.ones((4, 2), np.float32)
    every = {("none", CLEAN): shares, ("none", "exact"): shares}
    zero = np.array([[0, 1], [0, 1], [0, 0], [0, 1]], bool)
    flagged = {("none", "exact"): {"zero_gradient": zero, "nonfinite": np.zeros((4, 2), bool)}}
    outcome = Outcome(4, (0.1, 0.2), ("none",), ("exact",), every, every, flagged=flagged)
    assert adaptive_tables.warnings(outcome, 0.1) == []
    (line,) = adaptive_tables.warnings(outcome, 0.2)
    assert line.startswith("Warning: exact on none: for 3 of 4 images a gradient was exactly zero")
    assert adaptive_tables.to_markdown(outcome).endswith(f"> {line}\n")
    unflagged = replace(outcome, flagged={})
    assert "Warning" not in adaptive_tables.to_markdown(unflagged)


def test_the_worst_of_noisy_candidates_is_not_too_low():
    """Twenty attacks that all leave a true share of one half must not look stronger together."""
    rng = np.random.default_rng(0)
    threats = tuple(str(i) for i in range(20))
    shares = {
        kind: {("d", t): rng.binomial(4, 0.5, (500, 1)) / 4 for t in (CLEAN, *threats)} for kind in "cj"
    }
    outcome = Outcome(500, (0.1,), ("d",), threats, shares["c"], shares["j"])
    # Standard error 0.25 / sqrt(500) = 0.011.
    assert outcome.accuracy("d", WORST)[0] == pytest.approx(0.5, abs=0.045)
    naive = np.min([shares["j"]["d", t] for t in threats], axis=0).mean()
    assert naive < 0.2


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_few_images_and_many_candidates_are_not_reported_too_low(share):
    """18 images, 40 candidates of one true share: what is reported must not choose which of them counts."""
    rng, reported = np.random.default_rng(1), []
    threats = tuple(str(i) for i in range(39))
    for _ in range(60):
        shares = {
            kind: {("d", t): rng.binomial(5, share, (18, 1)) / 5 for t in (CLEAN, *threats)} for kind in "cj"
        }
        outcome = Outcome(18, (0.1,), ("d",), threats, shares["c"], shares["j"])
        reported.append(outcome.accuracy("d", WORST)[0])
    # 5400 draws: a standard error of at most 0.0055.
    assert np.mean(reported) == pytest.approx(share, abs=0.02)


@pytest.mark.slow
def test_a_random_defense_is_attacked_beyond_the_first_success(experiment, tmp_path, monkeypatch):
    """One lucky draw of the clean image must not end the attack, and no image is given up for it."""
    threat = Threat("identity", {"name": "apgd", "steps": 3})
    config = {**experiment.config, "threats": {"BPDA": {"steps": 3}}}
    random = replace(
        experiment,
        threats={"BPDA": threat},
        config=config,
        defenses={"random": experiment.defenses["random"]},
    )
    perturb, changes = adaptive.perturb, []

    def watched(run, attack, victim, rows):
        assert not attack.stop_early
        result = perturb(run, attack, victim, rows)
        changes.extend(np.abs(result.images - run.dataset.images[rows]).max(axis=(1, 2, 3)))
        return result

    monkeypatch.setattr(adaptive, "perturb", watched)
    outcome = adaptive.run(random, tmp_path, reporter())
    assert len(changes) == outcome.images * len(EPSILONS)
    assert min(changes) > 0


def test_of_equal_candidates_the_strongest_on_average_counts():
    """Both attacks break the first image in the draws that choose; only the stronger one does so always."""
    shares = {
        "c": {("d", CLEAN): [1, 1], ("d", "weak"): [0, 1], ("d", "strong"): [0, 0]},
        "j": {("d", CLEAN): [1, 1], ("d", "weak"): [0.5, 1], ("d", "strong"): [0, 0.25]},
    }
    chosen, judged = ({k: np.array(v)[:, None] for k, v in shares[kind].items()} for kind in "cj")
    outcome = Outcome(2, (0.1,), ("d",), ("weak", "strong"), chosen, judged)
    np.testing.assert_array_equal(outcome.worst("d")[:, 0], [0, 0.25])


def test_of_threats_that_break_all_the_last_at_the_largest_epsilon_counts():
    """In the draws that choose, all are equal; those that report tell them apart."""
    chosen = {("d", CLEAN): [[1, 1]], ("d", "few"): [[0, 0]], ("d", "many"): [[0, 0]]}
    judged = {("d", CLEAN): [[1, 1]], ("d", "few"): [[0.5, 0.2]], ("d", "many"): [[0.4, 0.1]]}
    arrays = ({key: np.array(value) for key, value in shares.items()} for shares in (chosen, judged))
    outcome = Outcome(1, (0.1, 0.2), ("d",), ("few", "many"), *arrays)
    np.testing.assert_array_equal(outcome.worst("d"), [[0.4, 0.1]])


def test_rows_and_columns_of_the_configuration_stand_in_the_papers_order():
    config = config_module.get_config("samples")
    expected = ("no defense", "WD", "SR", "WD+SR", "JPEG", "resize + pad", "TVM", "pixel deflection")
    assert config.rows == expected
    threats = resolve({**cli.plain(config), "rows": ["WD"]}).threats
    assert list(threats) == ["gray box", "transfer", "Square", "BPDA", "exact", "EOT"]


def test_columns_choose_threats_in_their_order():
    config = config_of_samples(rows=["WD"], columns=["exact", "gray box"])
    assert list(resolve(config).threats) == ["exact", "gray box"]


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_a_killed_one_continues(experiment, outcome, folder, monkeypatch):
    again = reporter()
    repeated = adaptive.run(experiment, folder, again)
    assert again.computed == 0
    for pair in outcome.judged:
        np.testing.assert_array_equal(repeated.judged[pair], outcome.judged[pair])
    # Another attack is another result; killed after its first batch, it goes on with the second.
    threats = {"BPDA": Threat("identity", {"name": "ifgsm", "steps": 2})}
    config = {**experiment.config, "threats": {"BPDA": {"steps": 2}}}
    other = replace(experiment, threats=threats, config=config, defenses={"WD": experiment.defenses["WD"]})
    perturb, calls = adaptive.perturb, []

    def dying(*arguments):
        calls.append(1)
        if len(calls) > len(EPSILONS):
            raise KeyboardInterrupt
        return perturb(*arguments)

    monkeypatch.setattr(adaptive, "perturb", dying)
    with pytest.raises(KeyboardInterrupt):
        adaptive.run(other, folder, reporter())
    monkeypatch.setattr(adaptive, "perturb", perturb)
    rest = reporter()
    adaptive.run(other, folder, rest)
    assert rest.computed in (3, 8)  # 3 after a whole batch of 5, 8 if the first was not finished


@pytest.mark.slow
def test_reports(outcome, tmp_path):
    text = adaptive_tables.to_markdown(outcome)
    assert text.count("| none |") == len(EPSILONS)
    assert "8 images" in text
    assert "float32" not in text
    assert "in bfloat16" in adaptive_tables.to_markdown(replace(outcome, arithmetic="bfloat16"))
    values = json.loads(adaptive_tables.to_json(outcome))
    assert values["accuracy"]["none"][CLEAN] == [1.0] * 3
    assert "EOT" not in values["accuracy"]["WD"]
    for name in ("curves.png", "curves.pdf"):
        adaptive_plots.save_curves(tmp_path / name, outcome)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(InputError, match="nothing was attacked with ε 7/255"):
        adaptive_tables.rows(outcome, 7 / 255)


def test_records_have_a_row_for_each_image_and_epsilon(experiment):
    shares = np.array([[1, 0.5], [1, 0], [0.25, 0]], np.float32)
    judged = {("WD", CLEAN): np.ones((3, 2)), ("WD", "once"): shares, ("WD", "few"): shares * [1, np.nan]}
    zero = shares == 0
    flagged = {("WD", "once"): {"zero_gradient": zero, "nonfinite": ~zero}}
    dataset = experiment.dataset.select(slice(1, 4))
    outcome = Outcome(
        3, (0.1, 0.2), ("WD",), ("once", "few"), judged, judged, flagged=flagged, dataset=dataset
    )
    rows = adaptive_files.records(outcome, dataset).to_pylist()
    assert len(rows) == 3 * (2 + 2 + 1)
    once = [row for row in rows if row["threat"] == "once"]
    assert [row["correct"] for row in once] == [1, 1, 0.25, 0.5, 0, 0]
    assert [row["zero_gradient"] for row in once] == [False, False, False, False, True, True]
    assert [row["nonfinite"] for row in once] == [not row["zero_gradient"] for row in once]
    assert [row["image"] for row in once[:3]] == list(dataset.names)
    assert {(row["threat"], row["epsilon"]) for row in rows} == {
        *((threat, epsilon) for threat in (CLEAN, "once") for epsilon in (0.1, 0.2)),
        ("few", 0.1),
    }


def test_a_threat_that_does_not_attack_at_an_epsilon_has_no_column_there():
    shares = np.ones((4, 2), np.float32)
    absent = shares * [[1, np.nan]]
    every = {("none", CLEAN): shares, ("none", "always"): shares, ("none", "once"): absent}
    small = Outcome(4, (0.1, 0.2), ("none",), ("always", "once"), every, every)
    assert adaptive_tables.columns(small, 0.1) == (CLEAN, "always", "once", WORST)
    assert adaptive_tables.columns(small, 0.2) == (CLEAN, "always", WORST)
    rows = list(csv.DictReader(adaptive_tables.to_csv(small).splitlines()))
    assert [(row["threat"], row["epsilon"]) for row in rows] == [
        *((threat, epsilon) for threat in (CLEAN, "always") for epsilon in ("0.1", "0.2")),
        *(("once", "0.1"), (WORST, "0.1"), (WORST, "0.2")),
    ]
    # Wilson's interval of 4 of 4.
    assert {(row["accuracy"], round(float(row["low"]), 3), row["high"]) for row in rows} == {
        ("1.0", 0.51, "1.0")
    }
    assert [len(row) for row in adaptive_tables.rows(small, 0.2)] == [4]


@pytest.mark.slow
def test_checks_of_every_defense(experiment, folder, tmp_path):
    some = replace(experiment, defenses={k: experiment.defenses[k] for k in ("none", "JPEG", "random")})
    found = adaptive_checks.run(some, folder, reporter())
    text = adaptive_files.write_checks(tmp_path, some, found)
    assert "### none: exact gradient" in text
    assert "### JPEG: identity gradient (BPDA)" in text
    assert "### random: exact gradient, EOT over 2 draws" in text
    again = reporter()
    repeated = adaptive_checks.run(some, folder, again)
    assert adaptive_files.write_checks(tmp_path, some, repeated) == text
    assert (tmp_path / "checks.md").read_text() == text
    assert again.computed == 0
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [f"landscape_{name}.png" for name in ("1_none", "2_JPEG", "3_random")]
    assert all(f"]({name})" in text for name in pictures)


@pytest.mark.slow
def test_the_predicted_class_can_be_the_label(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    config = config_of_samples(defenses={"none": {"name": "identity"}}, rows=[])
    config["dataset"] = {"name": "folder", "path": str(tmp_path), "size": 64, "labels": "predicted"}
    config["other_classifier"] = config["classifier"]
    found = resolve(config)
    run = Run(found, found.dataset).correct()
    np.testing.assert_array_equal(run.dataset.labels, predict(found.classifier, found.dataset.images))


def test_a_bank_of_the_evaluated_images_is_refused():
    config = config_of_samples(rows=["quilting + TVM"])
    with pytest.raises(InputError, match="its patch bank would be made of the images that are evaluated"):
        resolve(config)


def test_checks_of_images_without_labels_and_of_a_damaged_file(experiment, tmp_path):
    """Those labels are the classifier's predictions, as in the threats."""
    some = replace(experiment, defenses={"none": experiment.defenses["none"]})
    unknown = replace(some.dataset, labels=np.full(len(some.dataset), -1, np.int32))
    predicted = replace(unknown, labels=predict(some.classifier, unknown.pixels).astype(np.int32))
    found, wanted = (
        adaptive_checks.run(replace(some, dataset=dataset), tmp_path / name, reporter())
        for name, dataset in (("unknown", unknown), ("predicted", predicted))
    )
    assert found[0].checks == wanted[0].checks != []
    (file,) = (tmp_path / "unknown" / "checks").iterdir()
    whole = json.loads(file.read_text())
    kept = [
        {**whole, "checks": {}},  # as if there were nothing to check
        {**whole, "checks": []},
        {**whole, "checks": [{**whole["checks"][0], "passed": "no"}]},
        {**whole, "landscape": whole["landscape"][:5]},
        {**whole, "landscape": [None] * 13},
    ]
    for damage in ("", "{}", '{"checks": [{}], "landscape": []}', "[]", *map(json.dumps, kept)):
        file.write_text(damage)
        again = adaptive_checks.run(replace(some, dataset=unknown), tmp_path / "unknown", reporter())
        assert again[0].checks == found[0].checks
        np.testing.assert_array_equal(again[0].landscape, found[0].landscape)


def test_checks_and_reports_of_other_images_go_with_them(experiment, tmp_path):
    judged = {("none", CLEAN): np.ones((2, 1))}
    few = experiment.dataset.select(slice(2))
    outcome = Outcome(2, (0.1,), ("none",), (), judged, judged, dataset=few)
    adaptive_files.write(tmp_path, experiment, outcome)
    for name in ("checks.md", "report.html"):
        (tmp_path / name).write_text("of these images")
    adaptive_files.write(tmp_path, experiment, outcome)
    assert (tmp_path / "checks.md").exists()
    others = experiment.dataset.select(slice(2, 4))
    adaptive_files.write(tmp_path, experiment, replace(outcome, dataset=others))
    assert not {"checks.md", "report.html"} & {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "adaptive.md").exists()


def config_of_samples(**changes):
    return {**ConfigDict(config_module.get_config("samples")).to_dict(), **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilons": (0.1, 0.05)}, "epsilons must be positive and rising"),
        ({"epsilons": ("4/255",)}, "epsilon must be a number, not '4/255'"),
        ({"epsilons": (0.1, float("nan"))}, "epsilon must be finite and not negative, but is nan"),
        ({"final_draws": 1}, "final_draws must be a whole number of at least 2"),
        (
            {"threats": {"x": {"knows": "everything", "attack": {"name": "fgsm"}}}},
            "unknown knowledge 'everything'",
        ),
        ({"threats": {"x": {"knows": "gradient"}}}, "threat 'x' must have the fields knows and attack"),
        ({"threats": {CLEAN: {}}}, "'clean' is always there"),
        (
            {"threats": {"x": {"knows": "scores", "attack": {"name": "fgsm"}, "epsilons": (0.3,)}}},
            "threat 'x': epsilons must be some of config.epsilons",
        ),
        ({"arithmetic": "fp8"}, "unknown arithmetic 'fp8'; choose from: float32, tensorfloat32, bfloat16"),
        ({"seed": 0.5}, r"config\.seed must be a whole number"),
        ({"checks": {"epsilon": 0.1}}, r"config\.checks must have the fields epsilon, images"),
        (
            {"checks": {"epsilon": 0.1, "images": 0, "steps": 1, "queries": 1, "draws": 1, "effort": 2}},
            r"config\.checks\.images must be an integer of at least 1",
        ),
        (
            {"checks": {"epsilon": 0, "images": 1, "steps": 1, "queries": 1, "draws": 1, "effort": 2}},
            r"config\.checks\.epsilon must be above 0",
        ),
        (
            {"checks": {"epsilon": 1, "images": 1, "steps": 1, "queries": 1, "draws": 1, "effort": 1}},
            r"config\.checks\.effort must be at least 2",
        ),
        (
            {"threats": {"x": {"knows": "gradient", "attack": {"name": "fgsm"}, "draws": 2}}},
            "threat 'x': draws are for attackers who know expectation or scores",
        ),
        (
            {
                "threats": {
                    "a": {"knows": "gradient", "attack": {"name": "apgd", "norm": "l2"}},
                    "b": {"knows": "identity", "attack": {"name": "apgd"}},
                },
                "columns": (),
            },
            r"config\.threats must have attacks of one norm, not of several: a l2, b linf",
        ),
        ({"epsilons": (8 / 255, 2)}, r"epsilon is in units of the \[0, 1\] range"),
        (
            {"checks": {"epsilon": 2, "images": 1, "steps": 1, "queries": 1, "draws": 1, "effort": 2}},
            r"epsilon is in units of the \[0, 1\] range",
        ),
        ({"rows": ("snow",)}, r"config\.rows: config\.defenses has no 'snow'; choose from: none"),
        ({"columns": ("EOT", "BPDB")}, r"config\.columns: .* no 'BPDB'; choose from: .*, gray box, transfer"),
        ({"colour": 1}, "unknown config field 'colour'"),
        (
            {
                "threats": {"a": {"knows": "gradient", "attack": {"name": "pgd", "step_size": 0}}},
                "columns": (),
            },
            r'^config\.threats\["a"\]\.attack: step_size must be greater than 0',
        ),
        (
            {"defenses": {"J": {"name": "jpeg", "quality": 0}}, "rows": ()},
            r'^config\.defenses\["J"\]: jpeg: quality must be',
        ),
        ({"defenses": {"J": {"defense": {"name": "jpeg"}}}}, "must have the fields defense and surrogate"),
    ],
)
def test_bad_configurations_are_named(changes, message):
    config = config_of_samples(defenses={"none": {"name": "identity"}}, rows=[])
    with pytest.raises(InputError, match=message):
        resolve({**config, **changes})
