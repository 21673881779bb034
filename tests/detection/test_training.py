"""The manifold classifier: its data and its optimiser."""

import io
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console

from srdef import datasets, models
from srdef.datasets import base
from srdef.detection import network as network_module
from srdef.detection import training as detector_training
from srdef.detection.pairs import Pairs, pair_accuracy, sources_of, split_by_image
from srdef.detection.sweep import Sweep
from srdef.errors import InputError, SrdefWarning
from srdef.evaluation.progress import Reporter
from srdef.storage.fingerprint import digest
from srdef.training.checkpoints import Checkpoints


def small_pairs(count=12, seed=0):
    """Feature maps whose adversarial versions differ in their mean."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(count, 2, 2, 192)).astype(np.float32)
    maps = np.stack([clean, clean + 0.5, clean - 0.5]).astype(np.float32)
    return Pairs(maps, rng.uniform(size=(2, count)) < 0.8)


@pytest.fixture(scope="module")
def options():
    return {
        "test_share": 0.3, "blocks": 2, "hidden": 16, "dropout": 0.5, "learning_rate": 1e-3,
        "top_factor": 0.1, "pairs_per_batch": 4, "steps": 6, "evaluate_every": 2,
    }  # fmt: skip


def separable_pairs(count, seed):
    """Attacked maps that differ from the clean ones in one direction: a linear detector could tell them."""
    direction = np.random.default_rng(9).choice([-1, 1], 192)
    clean = np.random.default_rng(seed).normal(size=(count, 2, 2, 192))
    maps = np.stack([clean, clean + direction, clean + 1.5 * direction])
    fooled = np.random.default_rng(seed).uniform(size=(2, count)) < 0.8
    return Pairs(maps.astype(np.float32), fooled)


@pytest.mark.parametrize(("count", "share"), [(20, 0.3), (2, 0.01), (3, 0.99)])
def test_split_is_by_image_and_leaves_something_on_both_sides(count, share):
    names = [f"{i}.png" for i in range(count)]
    train, test = split_by_image(names, share, seed=1)
    assert sorted([*train, *test]) == list(range(count))
    assert len(train) >= 1
    assert len(test) >= 1
    np.testing.assert_array_equal(train, split_by_image(names, share, seed=1)[0])


def test_crops_of_one_image_are_on_one_side():
    names = [f"photos/{i}.png#{number}" for number in range(3) for i in range(10)]
    train, test = split_by_image(names, 0.3, seed=1)
    sides = [{names[row].partition("#")[0] for row in rows} for rows in (train, test)]
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [7, 3]
    assert [len(train), len(test)] == [21, 9]


@pytest.mark.parametrize("on_disk", [False, True])
def test_copies_of_a_photograph_are_on_one_side(on_disk, tmp_path, monkeypatch):
    """By their pixels: a copy in another folder, of another name and format, is no other photograph."""
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 256, (8, 32, 64, 3), np.uint8)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for i, pixels in enumerate(photographs):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.png")
        if i < 3:
            Image.fromarray(pixels).save(tmp_path / "b" / f"copy {i}.bmp")
    if on_disk:
        monkeypatch.setattr(base, "LARGEST_IN_MEMORY", 0)
    paths = [str(tmp_path / "a"), str(tmp_path / "b")]
    dataset = datasets.load("crops", paths=paths, side=32, keep=False)
    assert isinstance(dataset.pixels, np.ndarray) != on_disk
    with pytest.warns(SrdefWarning, match=r"3 of 11 source images hold the pixels of others, as b/copy 0"):
        sources = sources_of(dataset)
    assert sources == [f"a/{i}.png" for i in [*range(8), *range(3)] for _ in range(2)]
    for seed in range(5):
        train, test = split_by_image(sources, 0.5, seed)
        sides = [{dataset.batch(row[None]).tobytes() for row in rows} for rows in (train, test)]
        assert not sides[0] & sides[1]
    alone = dataset.select(slice(0, 16))  # without copies it is the split by names
    np.testing.assert_array_equal(
        split_by_image(sources_of(alone), 0.5, 0)[1], split_by_image(alone.names, 0.5, 0)[1]
    )


@pytest.mark.parametrize("names", [["a.png"], ["a.png#0", "a.png#1"]])
def test_split_refuses_what_cannot_be_split(names):
    with pytest.raises(InputError, match="cannot split 1 images"):
        split_by_image(names, 0.5, 0)


def test_fewer_pairs_are_some_of_more():
    pairs = small_pairs(40)
    total = int(pairs.fooled.sum())
    few, some, every = (pairs.fewer(count, seed=3) for count in (5, 20, total + 1))
    assert [int(part.fooled.sum()) for part in (few, some, every)] == [5, 20, total]
    assert not (few.fooled & ~some.fooled).any()
    assert not (some.fooled & ~pairs.fooled).any()
    assert few.maps is pairs.maps


def test_an_epoch_holds_every_pair_once():
    pairs = small_pairs()
    total, size = int(pairs.fooled.sum()), 3
    wanted = sorted(
        (clean.tobytes(), adversarial.tobytes())
        for attack, fooled in zip(pairs.maps[1:], pairs.fooled, strict=True)
        for clean, adversarial in zip(pairs.maps[0, fooled], attack[fooled], strict=True)
    )
    batches = [pairs.maps[pairs.batch(i, size, seed=0)] for i in range(-(-2 * total // size))]
    drawn = [
        (clean.tobytes(), adversarial.tobytes())
        for batch in batches
        for clean, adversarial in zip(batch[:size], batch[size:], strict=True)
    ]
    assert sorted(drawn[:total]) == wanted
    assert sorted(drawn[total : 2 * total]) == wanted
    assert drawn[:total] != drawn[total : 2 * total]


@pytest.fixture(scope="module")
def network():
    return models.create("efficientnet_lite0", num_classes=5)


def test_the_frozen_part_and_the_top_are_the_whole_network(network):
    images = np.random.default_rng(0).uniform(size=(2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def both(network, images):
        endpoint, top = network_module.cut(network, 2)
        return top(network.endpoints(images)[endpoint]), network.features(images)

    assert network_module.cut(network, 2)[0] == "block13"
    endpoint, nothing = network_module.cut(network, 0)
    assert endpoint == network.last_endpoint
    assert nothing(images) is images
    ours, whole = both(network, images)
    np.testing.assert_allclose(ours, whole, rtol=1e-5, atol=1e-5)


def test_networks_whose_top_is_not_known():
    with pytest.raises(InputError, match="SqueezeNet"):
        network_module.cut(models.create("squeezenet", num_classes=5), 2)


def test_top_is_trained_with_a_tenth_of_the_rate_and_nothing_below_it(network, options, tmp_path):
    """Adam's first step moves every parameter by its learning rate."""
    model = detector_training.create(network, options, seed=0)
    before = nnx.to_pure_dict(nnx.state(model.detector, nnx.Param))
    frozen = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(network)))
    pairs = small_pairs()
    trained = detector_training.train(
        model.detector, pairs, pairs, {**options, "steps": 1, "dropout": 0.1}, 0, tmp_path, Reporter()
    )
    after = nnx.to_pure_dict(nnx.state(trained, nnx.Param))
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), after, before)
    # Adam's epsilon makes the step a little shorter where gradients are tiny; the largest counts.
    top = max(jax.tree.leaves(moved["top"]))
    assert top == pytest.approx(1e-4, rel=1e-2)
    for name in ("norm", "dense", "output"):
        assert max(jax.tree.leaves(moved[name])) == pytest.approx(1e-3, rel=1e-2)
    # The network whose lower blocks gave the feature maps is as it was, its batch statistics too.
    jax.tree.map(np.testing.assert_array_equal, frozen, nnx.to_pure_dict(nnx.state(network)))


def test_it_learns_what_can_be_told_and_adversarial_is_positive(network, options, tmp_path):
    """Clean images stay below 0 and adversarial ones above, on images that it has not seen."""
    training, testing = separable_pairs(40, seed=1), separable_pairs(20, seed=2)
    model = detector_training.create(network, options, seed=0)
    course = {**options, "steps": 60, "evaluate_every": 60, "pairs_per_batch": 16}
    trained = detector_training.train(model.detector, training, testing, course, 0, tmp_path, Reporter())
    clean, adversarial = detector_training.scores(trained, testing, 20)
    assert pair_accuracy(clean, adversarial, testing.fooled) > 0.9
    assert np.median(adversarial) > 0 > np.median(clean)
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert record["test_accuracy"] == pair_accuracy(clean, adversarial, testing.fooled)


def test_shows_its_steps_and_waits_for_all_but_the_last(network, options, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(detector_training.StepsAhead, "add", lambda self, loss: given.append(loss))
    pairs, text = small_pairs(), io.StringIO()
    for steps, line in ((2, "training two blocks             2 steps"), (5, "3 steps")):
        model = detector_training.create(network, options, seed=0)
        reporter = Reporter(Console(file=text, markup=False))
        course = {**options, "steps": steps}
        detector_training.train(
            model.detector, pairs, pairs, course, 0, tmp_path, reporter, title="training two blocks"
        )
        assert line in text.getvalue()
        assert reporter.computed == 0  # steps are no images
    assert len(given) == 5


def test_checkpoints_of_another_training_are_refused(network, options, tmp_path, monkeypatch):
    pairs = small_pairs()

    def train(pairs=pairs, **changes):
        model = detector_training.create(network, options, seed=0)
        detector_training.train(model.detector, pairs, pairs, {**options, **changes}, 0, tmp_path, Reporter())

    train(steps=2)
    with pytest.raises(InputError, match="with other images: delete checkpoints/ there to train again"):
        train(small_pairs(seed=1))
    with pytest.raises(InputError, match="with other options:"):
        train(learning_rate=1e-2)
    with monkeypatch.context() as patch:
        patch.setattr(detector_training, "code_digest", lambda *_: "edited")
        with pytest.raises(InputError, match="with other code:"):
            train()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    train(steps=4)  # the same, further
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (tmp_path / "training.json").unlink()
    with pytest.raises(InputError, match="with other images, weights, options, code"):
        train()


def test_a_damaged_newest_checkpoint_gives_the_same_detector_from_the_one_before(network, options, tmp_path):
    pairs = small_pairs()

    def train():
        steps = []
        model = detector_training.create(network, options, seed=0)
        trained = detector_training.train(
            model.detector,
            pairs,
            pairs,
            options,
            0,
            tmp_path,
            Reporter(),
            lambda record: steps.append(record["step"]),
        )
        return digest(trained), steps

    whole, steps = train()
    assert steps == [2, 4, 6]
    log = (tmp_path / "metrics.jsonl").read_text()
    data = max((tmp_path / "checkpoints/6/default").rglob("*"), key=lambda path: path.stat().st_size)
    data.unlink()
    with pytest.warns(UserWarning, match=r"checkpoint of step 6 in .*; going on from the one of step 4"):
        assert train() == (whole, [6])
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert train() == (whole, [])
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(InputError, match="with other images, weights, options, code"):
        train()


def test_a_finished_training_whose_log_is_lost_or_damaged(network, options, tmp_path):
    """Its accuracy is measured again."""
    pairs = small_pairs()
    model = detector_training.create(network, options, seed=0)
    trained = detector_training.train(model.detector, pairs, pairs, options, 0, tmp_path, Reporter())
    sweep = Sweep({}, tmp_path, {}, {}, [], 0, Reporter())
    found = sweep._train_accuracy(tmp_path, 6, trained, pairs, 16)
    log = tmp_path / "metrics.jsonl"
    text = log.read_text()
    assert found == json.loads(text.splitlines()[-1])["train_accuracy"]
    for damage in ("", text[:-9], text.replace('"train_accuracy"', '"accuracy"')):
        log.write_text(damage)
        assert sweep._train_accuracy(tmp_path, 6, trained, pairs, 16) == pytest.approx(found)
    log.unlink()
    assert sweep._train_accuracy(tmp_path, 6, trained, pairs, 16) == pytest.approx(found)


def test_a_training_of_more_steps_is_not_one_of_fewer(network, options, tmp_path):
    pairs = small_pairs()

    def train(steps):
        model = detector_training.create(network, options, seed=0)
        detector_training.train(
            model.detector, pairs, pairs, {**options, "steps": steps}, 0, tmp_path, Reporter()
        )

    train(4)
    with pytest.raises(InputError, match=r"are of 4 steps, and 2 are asked for: delete checkpoints/"):
        train(2)
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_a_run_that_is_killed_behind_a_checkpoint_has_its_record(network, options, tmp_path, monkeypatch):
    """The record of the last step says how good the detector is; nothing would make it anew."""
    pairs = small_pairs()

    def train():
        model = detector_training.create(network, options, seed=0)
        detector_training.train(
            model.detector, pairs, pairs, {**options, "steps": 2}, 0, tmp_path, Reporter()
        )

    def save_and_die(checkpoints, step, state):
        save(checkpoints, step, state)
        raise KeyboardInterrupt

    save = Checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train()
    train()
    (record,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert record["step"] == 2


def test_logits_that_are_no_numbers_are_no_accuracy(network, options, tmp_path):
    pairs, model = small_pairs(), detector_training.create(network, options, seed=0)
    wild = {**options, "steps": 1, "learning_rate": 1e38}
    with pytest.raises(InputError, match="logits are not finite after step 1; lower learning_rate"):
        detector_training.train(model.detector, pairs, pairs, wild, 0, tmp_path, Reporter())
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("content", ["null", "[]", '"x"', "3", "{}", '{"classifier": 3}', '{"train": 3}'])
def test_files_of_another_kind_are_named(tmp_path, content):
    (tmp_path / "checkpoints").mkdir()
    for name, read in (
        ("config.json", detector_training.load),
        ("images.json", detector_training.trained_on),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=rf"{name} is damaged \(.*\): run srdef manifold again"):
            read(tmp_path)
