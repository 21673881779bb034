"""Many trainings on the same features, and the attack on classifier and detector together."""

import json
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from toys import in_threads

from configs import manifold as configuration
from srdef import attacks, datasets, models
from srdef.commands import cli
from srdef.commands import manifold as script
from srdef.detection import joint, study, sweep, training
from srdef.detection.experiment import Result
from srdef.detection.network import detect
from srdef.detection.pairs import Accuracy, accuracy_of, pair_accuracy, rate_of
from srdef.detection.victim import WithDetector, lead_over_both
from srdef.errors import InputError
from srdef.evaluation.progress import Reporter
from srdef.metrics import rate, wilson_interval
from srdef.reporting import detection_figure, detection_tables, plots
from srdef.reporting.page import build
from srdef.victims import check_victim


def study_config():
    config = configuration.get_config("study,lite0,samples")
    config.dataset.update({"size": 64, "limit": 12})
    config.batch_size = 4
    config.attacks = ConfigDict(
        {
            "FGSM-10": {"name": "fgsm", "epsilon": 10 / 255, "storage": "uint8"},
            "noise": config.attacks["noise ±10"],
        }
    )
    config.defenses = ConfigDict({"bicubic ×2": config.defenses["bicubic ×2"]})
    config.manifold.update(
        {"hidden": 16, "steps": 3, "evaluate_every": 3, "pairs_per_batch": 2, "test_share": 0.4}
    )
    config.study.update(
        {"pairs": (2, 1000), "blocks": (0, 1), "controls": ("noise",), "joint": {"epsilon": 0.03, "steps": 2}}
    )
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """First with three threads, then with one."""
    workdir = tmp_path_factory.mktemp("study")
    config = study_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: range(9), raising=False)
        script.main(config, workdir)
    return workdir, study.run(cli.plain(config), workdir, Reporter())


@pytest.mark.slow
def test_a_study_trains_every_setting_once(finished):
    workdir, found = finished
    most = found.result.pairs["train"]  # fewer than 1000
    counts = sorted({2, max(setting.pairs for setting in found.settings)})
    assert [(setting.blocks, setting.pairs) for setting in found.settings] == [
        (blocks, count) for blocks in (0, 1) for count in counts
    ]
    assert counts[-1] <= 12
    assert found.best in found.settings
    assert found.best.accuracy.value == max(setting.accuracy.value for setting in found.settings)
    assert most == found.best.pairs
    assert found.result.images["train"] <= found.best.pairs  # one attack: a pair has an image of its own
    assert found.result.accuracy == pytest.approx(found.best.accuracy.value)
    assert found.sources["test"] == found.result.images["test"]  # the sample images are no crops
    assert found.controls["noise"].total == found.result.images["test"]
    assert list(found.result.attacks) == ["FGSM-10"]
    for row in found.both.values():
        assert {share.total for share in row.values()} == {found.result.images["test"]}
        assert row["both"].successes <= min(row["fools"].successes, row["clean"].successes)
    # The command has written the same, and a second run trains and computes nothing.
    assert (workdir / "study.md").read_text() == detection_tables.study_to_markdown(found)
    reporter = Reporter()
    before = {file: file.stat().st_mtime_ns for file in (workdir / "trainings").rglob("checkpoints.json")}
    assert len(before) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
        assert study.run(cli.plain(study_config()), workdir, reporter) == found
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert reporter.computed == 0
    page = build(workdir)
    assert "Accuracy against the number of pairs trained on" in page
    assert "APGD against classifier and detector" in page


@pytest.mark.slow
def test_two_processes_share_the_trainings(finished, tmp_path, monkeypatch):
    """Threads stand for them: each trains some settings, and the numbers are those of one process."""
    (tmp_path / "store").symlink_to(finished[0] / "store")
    lines = []
    monkeypatch.setattr(cli.console, "print", lambda *text, **options: lines.append(str(text[0])))
    in_threads(lambda members: script.main(study_config(), tmp_path, members=members), 2)
    for name in ("study.json", "images.json"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()
    logs = [folder / "metrics.jsonl" for folder in sorted((tmp_path / "trainings").iterdir())]
    assert len(logs) == 4
    for log in logs:
        assert log.read_text() == (finished[0] / log.relative_to(tmp_path)).read_text()
    for shown in ("pairs trained on", " 3 steps "):  # the results, and the trainings
        assert len([line for line in lines if shown in line]) == 4


@pytest.mark.slow
def test_the_detector_of_a_setting_can_be_loaded(finished):
    workdir, found = finished
    folder = workdir / "trainings" / f"blocks{found.best.blocks}-pairs{found.best.pairs}"
    model = training.load(folder)
    dataset = datasets.load(**cli.plain(study_config())["dataset"])
    tested = json.loads((folder / "images.json").read_text())["test"]
    logits = detect(model, dataset.images[[dataset.names.index(name) for name in tested]])
    assert int((np.asarray(logits) <= 0).sum()) == found.result.clean.successes
    assert training.trained_on(folder).isdisjoint(tested)


def test_controls_must_be_attacks(tmp_path):
    config = cli.plain(study_config())
    config["study"]["controls"] = ["hum"]
    with pytest.raises(InputError, match=r"config\.study\.controls hum must be some of config\.attacks"):
        study.run(config, tmp_path, Reporter())


def test_trainings_of_the_same_network_share_a_program(tmp_path):
    network = models.create("efficientnet_lite0", num_classes=5)
    options = {
        "blocks": 0, "hidden": 4, "dropout": 0.5, "learning_rate": 1e-3, "top_factor": 0.1,
        "pairs_per_batch": 2, "steps": 1, "evaluate_every": 1,
    }  # fmt: skip
    model = training.create(network, options, seed=0)
    maps = np.random.default_rng(0).normal(size=(2, 6, 1, 1, 1280)).astype(np.float32)
    pairs = training.Pairs(maps, np.ones((1, 6), bool))
    before = training._stepper.cache_info().currsize
    for count in (2, 3, 6):
        folder = tmp_path / str(count)
        training.train(model.detector, pairs.fewer(count, 0), pairs, options, 0, folder, Reporter())
    assert training._stepper.cache_info().currsize == before + 1


def test_the_interval_is_over_source_images():
    """Crops of one image that agree count as one: four times the crops, the same interval."""
    right = np.random.default_rng(0).uniform(size=40) < 0.8
    logits, fooled = np.where(right, 1.0, -1.0), np.ones((1, 40), bool)
    names = [f"photos/{i}.png" for i in range(40)]
    one = accuracy_of(-logits, logits[None], fooled, names)
    assert one.value == pair_accuracy(-logits, logits[None], fooled) == pytest.approx(right.mean())
    assert one.low < one.value < one.high
    assert one.pairs == 40
    crops = [f"{name}#{i}" for i in range(4) for name in names]
    four = accuracy_of(np.tile(-logits, 4), np.tile(logits, 4)[None], np.tile(fooled, (1, 4)), crops)
    assert (four.value, four.low, four.high) == pytest.approx((one.value, one.low, one.high))
    assert four.pairs == 160
    independent = accuracy_of(
        np.tile(-logits, 4), np.tile(logits, 4)[None], np.tile(fooled, (1, 4)), [f"{i}" for i in range(160)]
    )
    assert independent.high - independent.low < 0.7 * (one.high - one.low)


@pytest.mark.parametrize(("sources", "share"), [(1, 1.0), (1, 0.5), (8, 1.0)])
def test_source_images_that_all_agree_leave_an_interval(sources, share):
    """Of one source image, or where all is right, all resamples are the same."""
    count = 12 * sources
    right = np.arange(count) % 2 < 2 * share
    logits, fooled = np.where(right, 1.0, -1.0), np.ones((1, count), bool)
    names = [f"photos/{i // 12}.png#{i % 12}" for i in range(count)]
    found = accuracy_of(-logits, logits[None], fooled, names)
    assert found.value == share
    assert (found.low, found.high) == pytest.approx(wilson_interval(share * sources, sources))
    assert found.high - found.low > 0.3


def test_shares_of_crops_have_intervals_over_source_images():
    """Crops that agree are one observation: of 4 and of 400 crops of each the interval is the same."""
    rng = np.random.default_rng(3)
    right = rng.uniform(size=60) < 0.7
    names = [f"photos/{i}.png" for i in range(60)]
    assert rate_of(right, names) == rate(right)  # Wilson's, of independent images
    few, many = (rate_of(np.repeat(right, n), [f"{name}#{i}" for name in names for i in range(n)])
                 for n in (4, 400))  # fmt: skip
    assert (few.successes, few.total) == (4 * right.sum(), 240)
    assert (few.low, few.high) == pytest.approx((many.low, many.high))
    # They vary as 59 independent images do, as the variance of 60 is estimated.
    assert (few.low, few.high) == pytest.approx(wilson_interval(59 * few.value, 59))
    # Crops that have nothing in common are worth as many images, but for chance.
    apart = rng.uniform(size=4000) < 0.7
    crops = rate_of(apart, [f"{i // 4}.png#{i % 4}" for i in range(4000)])
    assert (crops.low, crops.high) == pytest.approx((rate(apart).low, rate(apart).high), abs=2e-3)
    # Of unequally many crops each: the variance of a ratio of sums, by its textbook formula.
    counts = rng.integers(1, 6, 60)
    some = rng.uniform(size=counts.sum()) < 0.7
    cut = np.repeat(np.arange(60), counts)
    found = rate_of(some, [f"{i}.png#{j}" for j, i in enumerate(cut)])
    sums = np.array([some[cut == i].sum() for i in range(60)])
    variance = 60 / 59 * ((sums - some.mean() * counts) ** 2).sum() / counts.sum() ** 2
    worth = min(some.mean() * (1 - some.mean()) / variance, counts.sum())
    assert (found.low, found.high) == pytest.approx(wilson_interval(some.mean() * worth, worth))
    none = rate_of(np.zeros(0, bool), [])
    assert (none.total, none.low, none.high) == (0, 0, 1)
    alike = rate_of(np.ones(20, bool), [f"{i // 4}.png#{i % 4}" for i in range(20)])
    assert (alike.low, alike.high) == pytest.approx(wilson_interval(5, 5))
    third = rate_of(np.arange(15) % 3 == 0, [f"{i // 3}.png#{i % 3}" for i in range(15)])
    assert (third.low, third.high) == pytest.approx(wilson_interval(5 / 3, 5))


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_intervals_of_crops_cover_the_truth(share):
    """About 95 of 100 do; of crops taken for independent images fewer."""
    rng = np.random.default_rng(0)
    names = [f"{i // 5}.png#{i % 5}" for i in range(300)]
    covered = np.zeros(2)
    for _ in range(200):
        photographs = rng.beta(share, 1 - share, 60).repeat(5)  # half of the variance is between them
        drawn = rng.uniform(size=300) < photographs
        for which, found in enumerate((rate_of(drawn, names), rate(drawn))):
            covered[which] += found.low <= share <= found.high
    assert covered[0] >= 184
    assert covered[1] <= 170


@pytest.fixture(scope="module")
def model():
    options = {"blocks": 1, "hidden": 8, "dropout": 0.5}
    return training.create(models.create("efficientnet_lite0", num_classes=5), options, seed=0)


@pytest.mark.slow
def test_the_last_class_wins_where_the_detector_says_adversarial(model):
    pixels = np.random.default_rng(0).uniform(size=(6, 64, 64, 3)).astype(np.float32)
    suspicion = np.asarray(detect(model, pixels))
    threshold = float(np.median(suspicion))
    victim = WithDetector(model, jnp.float32(threshold))
    assert check_victim(victim, (64, 64, 3)) == 6
    logits = np.asarray(jax.jit(jax.vmap(lambda x: victim(x, jax.random.key(0))))(pixels))
    classes = np.asarray(jax.jit(lambda network, x: network(x))(model.network, pixels))
    np.testing.assert_allclose(logits[:, :5], classes, rtol=1e-4, atol=1e-4)
    # Within 1e-4 of the threshold rounding decides.
    clear = np.abs(suspicion - threshold) > 1e-4
    np.testing.assert_array_equal((logits.argmax(1) == 5)[clear], (suspicion > threshold)[clear])
    unaware = WithDetector(model, jnp.float32(np.inf))
    assert np.isneginf(unaware(pixels[0], jax.random.key(0))[-1])


@pytest.mark.parametrize(
    ("logits", "lead"),
    [
        ([2.0, 1.0, 0.0, -9.0], -1.0),  # fools neither
        ([1.0, 2.0, 0.0, 1.5], 0.5),  # fools both
        ([1.0, 2.0, 0.0, 4.0], -2.0),  # is called adversarial
        ([2.0, 1.0, 0.0, 2.5], -1.5),  # is found twice
        ([1.0, 2.0, 0.0, -np.inf], 1.0),  # no detector
    ],
)
def test_lead_over_both(logits, lead):
    assert float(lead_over_both(jnp.array(logits), jnp.int32(0))) == lead


@pytest.mark.slow
def test_an_attacker_who_knows_the_detector_climbs_over_it(model):
    """Where all images are called adversarial at first, only the attack on both gets away from that."""
    pixels = np.random.default_rng(1).uniform(0.2, 0.8, (6, 64, 64, 3)).astype(np.float32)
    threshold = float(np.asarray(detect(model, pixels)).min()) - 0.1
    aware, unaware = (WithDetector(model, jnp.float32(value)) for value in (threshold, np.inf))
    labels = np.asarray(jax.jit(lambda network, x: network(x))(model.network, pixels)).argmax(1)
    attack = attacks.create("apgd", epsilon=0.1, steps=8, loss=lead_over_both, stop_early=False)

    @jax.jit
    def mean_lead(x):
        logits = jax.vmap(lambda image: aware(image, jax.random.key(0)))(x)
        return jax.vmap(lead_over_both)(logits, labels).mean()

    before = mean_lead(pixels)
    alone, both = (
        mean_lead(attacks.perturb(attack, victim, pixels, labels, key=jax.random.key(0)).images)
        for victim in (unaware, aware)
    )
    assert both > before
    assert both > alone


def made_study():
    some = rate(np.array([True, True, True, False]))
    accuracy = Accuracy(0.75, 0.5, 0.9, 8)
    settings = tuple(
        sweep.Setting(blocks, pairs, accuracy, 0.8, 0.9) for blocks in (0, 2) for pairs in (500, 1000)
    )
    result = Result(
        {"train": 9, "test": 4}, {"train": 1000, "test": 8}, 0.75, 0.8, some,
        {"FGSM": (some, 0.8)}, {"as they are": {"clean": some, "FGSM": some}},
    )  # fmt: skip
    shares = {"fools": some, "clean": some, "both": rate(np.zeros(0, bool))}
    return study.Study(
        settings, settings[-1], result, {"train": 3, "test": 2}, {"photos": accuracy}, {"noise": some},
        {joint.BOTH: shares},
    )  # fmt: skip


def test_the_tables_of_a_study():
    found = made_study()
    text = detection_tables.study_to_markdown(found)
    assert "| none | 75.0 [50–90] | 75.0 [50–90] | 0.8000 | 90.0 |" in text
    assert "chosen by these test pairs: the last 2 blocks, 1,000 pairs" in text
    assert "| photos | 8 | 75.0 [50–90] |" in text
    barred = replace(found, folders={"a|b": found.folders["photos"]})
    assert "| a\\|b | 8 | 75.0 [50–90] |" in detection_tables.study_to_markdown(barred)
    assert "| noise | – | 75.0 [30–95] | – |" in text
    assert "| APGD against classifier and detector | 75.0 [30–95] | 75.0 [30–95] | – |" in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith(("| blocks", "|---:", "| none"))]
    assert len(set(rows)) == 1
    numbers = json.loads(detection_tables.study_to_json(found), parse_constant=pytest.fail)
    assert numbers["settings"][0] == {
        "blocks": 0,
        "pairs": 500,
        "accuracy": {"value": 0.75, "low": 0.5, "high": 0.9, "pairs": 8},
        "auc": 0.8,
        "train_accuracy": 0.9,
    }
    assert numbers["both"][joint.BOTH]["both"]["value"] is None
    assert numbers["result"]["intervals"] == "95 % Wilson intervals"
    grouped = replace(found, result=replace(found.result, grouped=True))
    assert text.count("95 % Wilson intervals.") == 2
    assert detection_tables.study_to_markdown(grouped).count("of as many independent images as") == 2


def test_the_figure_has_a_line_for_each_number_of_blocks():
    (axes,) = detection_figure.study_figure(made_study(), "net").axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == ["head alone", "2 blocks", "the paper", "a coin"]
    assert lines["2 blocks"].get_xdata().tolist() == [500, 1000]
    assert lines["2 blocks"].get_ydata().tolist() == [75, 75]


def test_how_many_trainings_run_at_a_time(monkeypatch):
    """On a GPU one: whose compiler must have it for itself."""
    monkeypatch.setattr(study.cores, "usable", lambda: 16)
    assert (study._workers(1), study._workers(2)) == (5, 1)
    monkeypatch.setattr(study, "may_overlap", lambda: False)
    assert study._workers(1) == 1


def test_a_detector_that_is_worse_than_a_coin_is_in_the_pictures():
    found = made_study()
    worse = replace(found.settings[0], accuracy=Accuracy(0.3, 0.1, 0.5, 8))
    (axes,) = detection_figure.study_figure(replace(found, settings=(worse, *found.settings[1:])), "net").axes
    assert axes.get_ylim()[0] < 10
    records = [{"step": 1, "loss": 0.7, "train_accuracy": 0.9, "test_accuracy": 0.25}]
    assert plots.training_figure(records, "net").axes[1].get_ylim()[0] < 25
