"""`evaluate_robustness`: what is counted, under which threat, and the table, file and picture it makes.

The classifier is linear in the mean of each image, so that the ε at which an image falls is known: two
classes with logits ±s (mean - 1/2) leave an image of mean m when all its pixels move by |m - 1/2|.
"""

import collections
import csv
import io
import sys
import types

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srdef
from srdef import attacks, metrics
from srdef.errors import InputError
from srdef.reporting.robust_accuracy import RobustAccuracy

KEY = jax.random.key(0)
SIDE = 4
# How far the mean of each image is from 1/2, in levels of 255; negative: on the side of class 0.
MARGINS = np.array([-20, -6, -3, 1.5, 3, 6, 12, 25])
LABELS = (MARGINS > 0).astype(int)
LABELS[[1, 4]] ^= 1  # classified wrongly when clean
IMAGES = np.broadcast_to((0.5 + MARGINS / 255)[:, None, None, None], (8, SIDE, SIDE, 3)).astype(np.float32)
CLEAN = np.array([True, False, True, True, False, True, True, True])
LEVELS = (2, 4, 8)
EPSILONS = tuple(level / 255 for level in LEVELS)
# Which images no perturbation of that many levels moves over the edge.
ROBUST = CLEAN & (np.abs(MARGINS) > np.array(LEVELS)[:, None])


def model(images):
    """Steep enough for losses to have a gradient in float32, flat enough for it not to vanish."""
    score = 20 * (images.mean((1, 2, 3)) - 0.5)
    return jnp.stack([-score, score], axis=-1)


def evaluate(attacks=("fgsm",), epsilons=EPSILONS, images=IMAGES, labels=LABELS, **options):
    return srdef.evaluate_robustness(model, images, labels, attacks, epsilons, **{"key": KEY, **options})


@pytest.fixture(scope="module")
def result():
    return evaluate(("fgsm", {"name": "pgd", "steps": 3}, "deepfool"), norm="linf")


@pytest.mark.parametrize("inner", [None, "fgsm", {"name": "pgd", "steps": 5}])
def test_the_smallest_epsilon_is_searched_up_to_the_largest_one(inner):
    entry = {"name": "minimal_epsilon"} | ({} if inner is None else {"attack": inner})
    found = evaluate(entry)
    name = {None: "ifgsm", "fgsm": "fgsm"}.get(inner if inner is None else str(inner), "pgd")
    np.testing.assert_array_equal(found.correct[f"minimal_epsilon of {name}"], ROBUST)
    single = evaluate(entry, 8 / 255)
    np.testing.assert_array_equal(single.correct[f"minimal_epsilon of {name}"], ROBUST[2:])


def test_any_iterable_of_attacks_and_epsilons():
    found = evaluate(iter(["fgsm"]), (level / 255 for level in LEVELS))
    np.testing.assert_array_equal(found.correct["fgsm"], ROBUST)


def test_options_of_an_attack_that_is_repeated():
    entry = {"name": "repeat", "attack": "pgd", "n": 2, "steps": 3}
    (accuracy,) = evaluate(entry, (1.0,), norm="l2").accuracy("repeat of pgd")
    assert accuracy[0] < CLEAN.sum()
    evaluate(entry, targets="second")


def test_an_attack_that_mixes_images_gets_the_evaluated_ones():
    named = evaluate({"name": "admix", "steps": 2})
    given = evaluate(lambda epsilon: attacks.admix(epsilon, steps=2, bank=IMAGES))
    np.testing.assert_array_equal(*(next(iter(result.correct.values())) for result in (named, given)))


def test_counts_over_all_images_and_over_the_clean_correct_ones(result):
    np.testing.assert_array_equal(result.clean, CLEAN)
    np.testing.assert_array_equal(result.correct["fgsm"], ROBUST)
    assert result.clean_accuracy[:3] == (6, 8, 0.75)
    assert [rate[:2] for rate in result.accuracy("fgsm")] == [(5, 8), (4, 8), (3, 8)]
    assert [rate[:2] for rate in result.accuracy("fgsm", of_clean_correct=True)] == [(5, 6), (4, 6), (3, 6)]
    for rate in result.accuracy("fgsm"):
        assert (rate.low, rate.high) == metrics.wilson_interval(rate.successes, rate.total)


def test_no_image_is_correct_under_attack_that_is_not_clean(result):
    for correct in result.correct.values():
        assert not (correct & ~CLEAN).any()
        assert (correct[1:] <= correct[:-1]).all()


def test_the_worst_case_is_that_of_each_image():
    """Two attacks that break different images."""
    first, second = np.array([[1, 1, 0, 1]], bool), np.array([[1, 0, 1, 1]], bool)
    found = RobustAccuracy(
        np.ones(4, bool), {"a": first, "b": second}, {"a": (1.0,), "b": (2.0,)}, (0.1,), "linf"
    )
    assert found.worst_case.tolist() == [[True, False, False, True]]
    assert [rate.value for rate in found.accuracy()] == [0.5]
    assert found.attacks == ("a", "b", "worst case")


def test_traces_are_those_of_perturb_on_the_images_that_are_attacked():
    repeated = {"name": "repeat", "attack": "pgd", "n": 2, "steps": 2}
    found = evaluate(("fgsm", repeated), ids=np.arange(8) + 100, trace=True)
    assert set(found.traces) == {(name, e) for name in ("fgsm", "repeat of pgd") for e in EPSILONS}
    victim = srdef.victims.Undefended(model)
    for epsilon, left in zip(EPSILONS, (CLEAN, *ROBUST[:2]), strict=True):
        ids, trace = found.traces["fgsm", epsilon]
        np.testing.assert_array_equal(ids, np.flatnonzero(left) + 100)
        attack = attacks.fgsm(epsilon)
        alone = attacks.perturb(attack, victim, IMAGES[left], LABELS[left], key=KEY, ids=ids, trace=True)
        for name in ("loss", "margin", "success"):
            np.testing.assert_allclose(getattr(trace, name), getattr(alone.trace, name), atol=1e-5)
    assert found.traces["repeat of pgd", EPSILONS[0]].trace.margin.shape == (3, CLEAN.sum())
    assert not evaluate().traces
    with pytest.raises(InputError, match="trace must be True or False"):
        evaluate(trace="yes")


@flax.struct.dataclass
class Darken(attacks.Attack):
    """Darkens by a fixed number of levels, without an ε of its own; notes each call."""

    levels: float = 3.0
    steps = 1

    def init(self, victim, image, label, key):
        return image

    def step(self, victim, state):
        return state - self.levels / 255

    def result(self, state):
        return state


@pytest.mark.parametrize("entry", [Darken(5.0), {"name": "darken_for_a_test", "levels": 5.0}])
def test_attacks_without_epsilon_run_once_and_count_where_they_fit(entry, monkeypatch):
    """Five levels break images of class 1 at most five levels above the edge, at an ε of at least five."""
    monkeypatch.setitem(attacks.REGISTRY._builders, "darken_for_a_test", Darken)
    from srdef import robustness

    runs = []

    def counted(*arguments, **options):
        runs.append(1)
        return attacks.perturb(*arguments, **options)

    monkeypatch.setattr(robustness, "perturb", counted)
    levels = (2, 4.99, 5, 8)
    result = evaluate([entry], [level / 255 for level in levels])
    assert len(runs) == 1
    broken = CLEAN & (MARGINS > 0) & (MARGINS < 5)
    expected = [CLEAN & ~(broken & (level >= 5)) for level in levels]
    np.testing.assert_array_equal(result.correct[result.attacks[0]], expected)


def test_minimal_norm_attacks_agree_with_the_closed_form(result):
    """DeepFool overshoots by 2 %, which separates none of these margins from these ε."""
    np.testing.assert_array_equal(result.correct["deepfool"], ROBUST)


@pytest.mark.parametrize(("norm", "length"), [("l2", np.sqrt(SIDE * SIDE * 3)), ("l1", SIDE * SIDE * 3)])
def test_other_norms(norm, length):
    """To move the mean by d costs d times the root, or the number, of all values."""
    epsilons = [length * epsilon for epsilon in EPSILONS]
    result = evaluate("apgd", epsilons, norm=norm)
    # APGD need not find the very last image; closed form: those it may break, and those it must.
    np.testing.assert_array_equal(result.correct["apgd"], ROBUST)


def test_all_kinds_of_attacks():
    single = attacks.fgsm(4 / 255)
    several = ["fgsm", attacks.fgsm, single, attacks.autoattack(4 / 255, attacks={"a": single})]
    made = evaluate(several, 4 / 255)
    assert made.attacks == ("fgsm", "fgsm (2)", "GradientSign", "AutoAttack", "worst case")
    np.testing.assert_array_equal(made.correct["fgsm"], made.correct["fgsm (2)"])
    for name in ("GradientSign", "AutoAttack"):
        np.testing.assert_array_equal(made.correct[name], [ROBUST[1]])
    alone = evaluate(attacks.autoattack(4 / 255, attacks={"a": single}), 4 / 255)
    assert alone.attacks == ("AutoAttack",)


@pytest.mark.parametrize(
    "attack",
    [
        attacks.fgsm(np.full(8, 4 / 255, np.float32)),
        attacks.pgd(np.full(8, 4 / 255, np.float32), steps=2).repeat(2),
        attacks.autoattack(4 / 255, attacks={"a": attacks.fgsm(np.full(8, 4 / 255, np.float32))}),
    ],
)
def test_an_attack_with_one_value_per_image_is_that_of_the_images_left(attack):
    """Misclassified images are not attacked."""
    made = evaluate(attack, 4 / 255)
    np.testing.assert_array_equal(made.correct[made.attacks[0]], [ROBUST[1]])


@pytest.mark.parametrize(
    "attack",
    [
        attacks.fgsm(4 / 255),
        {"name": "pgd", "epsilon": 4 / 255, "steps": 2},
        attacks.pgd(4 / 255, steps=2).repeat(2),
        attacks.autoattack(4 / 255),
    ],
)
@pytest.mark.parametrize("other", [2 / 255, 8 / 255])
def test_an_attack_with_its_own_epsilon_says_nothing_of_others(attack, other):
    """It would leave a model nearly all images at a smaller one, and too many at a larger."""
    with pytest.raises(InputError, match=r"ball of its own, ε = 0\.01569, and says nothing .*lambda epsilon"):
        evaluate(attack, other)


@pytest.mark.parametrize("start", [1 - IMAGES, (1 - IMAGES)[:1].repeat(8, axis=0)])
def test_an_attack_with_one_start_per_image(start):
    made = evaluate(attacks.hop_skip_jump(steps=1, init_num_evals=5, start=start), 1.0)
    # From an image of the same class no search begins.
    other = (start.mean((1, 2, 3)) > 0.5) != LABELS
    np.testing.assert_array_equal(made.correct["HopSkipJump"][0], CLEAN & ~other)


@flax.struct.dataclass
class Brighten:
    """A defense that adds levels, so that only those who know it see where the edge is."""

    levels: float
    random = False
    differentiable = True

    def __call__(self, image, key):
        return image + self.levels / 255


@flax.struct.dataclass
class Noise:
    """A random defense: adds one number to all pixels, the same to each."""

    levels: float
    random = True
    differentiable = True

    def __call__(self, image, key):
        return image + self.levels / 255 * jax.random.uniform(key, minval=-1, maxval=1)


def test_accuracy_is_that_behind_the_defense():
    result = evaluate(defense=Brighten(4.0))
    shifted = MARGINS + 4
    clean = (shifted > 0) == LABELS.astype(bool)
    np.testing.assert_array_equal(result.clean, clean)
    expected = clean & (np.abs(shifted) > np.array(LEVELS)[:, None])
    np.testing.assert_array_equal(result.correct["fgsm"], expected)


@flax.struct.dataclass
class Invert:
    """A defense that turns light into dark: an attacker who does not know it helps."""

    random = False
    differentiable = True

    def __call__(self, image, key):
        return 1 - image


def test_a_gray_box_attacker_does_not_see_the_defense():
    labels = 1 - LABELS
    for threat, expected in (("white_box", ROBUST), ("gray_box", [CLEAN] * 3)):
        result = evaluate(labels=labels, defense=Invert(), threat=threat)
        np.testing.assert_array_equal(result.clean, CLEAN)
        np.testing.assert_array_equal(result.correct["fgsm"], expected)


@flax.struct.dataclass
class Rounded:
    """A defense without a useful gradient."""

    random = False
    differentiable = False

    def __call__(self, image, key):
        return jax.lax.stop_gradient(image)


def test_a_white_box_attacker_replaces_a_gradient_that_is_not_there():
    np.testing.assert_array_equal(evaluate(defense=Rounded()).correct["fgsm"], ROBUST)


def test_random_defenses_are_judged_by_fresh_draws():
    """Noise of half a level either way leaves the margins on their sides, but for one of its own size."""
    result = evaluate({"name": "pgd", "steps": 4}, defense=Noise(0.4), draws=3)
    np.testing.assert_array_equal(result.clean, CLEAN)
    np.testing.assert_array_equal(result.correct["pgd"], ROBUST)
    attack = attacks.autoattack(4 / 255, attacks={"a": attacks.fgsm(4 / 255)})
    with pytest.raises(InputError, match=r'victim is random, .* use "rand"'):
        evaluate(attack, 4 / 255, defense=Noise(0.4))


def test_results_depend_on_neither_batches_nor_order():
    whole = evaluate("mifgsm")
    parts = evaluate("mifgsm", batch_size=3)
    order = np.random.default_rng(0).permutation(8)
    mixed = evaluate("mifgsm", images=IMAGES[order], labels=LABELS[order], ids=order)
    np.testing.assert_array_equal(whole.correct["mifgsm"], parts.correct["mifgsm"])
    np.testing.assert_array_equal(whole.correct["mifgsm"][:, order], mixed.correct["mifgsm"])


def test_progress_is_told():
    seen, batches = [], []
    evaluate(
        ("fgsm", "pgd"),
        EPSILONS[:2],
        batch_size=4,
        progress=lambda *values: seen.append(values),
        on_batch=lambda *values: batches.append(values),
    )
    assert seen == [
        (name, pytest.approx(level / 255), accuracy)
        for name in ("fgsm", "pgd")
        for level, accuracy in ((2, 5 / 8), (4, 4 / 8))
    ]
    # Only those that are classified correctly are attacked: 6 when clean, 5 beyond 2 levels.
    assert [values[2:] for values in batches if values[0] == "fgsm"] == [(4, 6), (6, 6), (4, 5), (5, 5)]


def test_rows_and_csv(result, tmp_path):
    rows = result.rows()
    assert [row["attack"] for row in rows] == [
        "clean",
        *(name for name in ("fgsm", "pgd", "deepfool", "worst case") for _ in LEVELS),
    ]
    assert rows[2] == {
        "attack": "fgsm",
        "epsilon": 4 / 255,
        "accuracy": 0.5,
        "low": pytest.approx(0.2152, abs=1e-4),  # Wilson's interval of 4 in 8
        "high": pytest.approx(0.7848, abs=1e-4),
        "images": 8,
        "accuracy_of_clean_correct": pytest.approx(4 / 6),
        "seconds": rows[2]["seconds"],
    }
    text = result.to_csv(tmp_path / "accuracy.csv")
    assert (tmp_path / "accuracy.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["accuracy"]) for row in read] == [row["accuracy"] for row in rows]
    with pytest.raises(InputError, match="cannot write"):
        result.to_csv(tmp_path / "none" / "accuracy.csv")


def test_pandas(result, monkeypatch):
    """With a stand-in where pandas is not installed: all that is asked of it is a `DataFrame` of the rows."""
    try:
        import pandas
    except ImportError:
        pandas = types.ModuleType("pandas")
        pandas.DataFrame = collections.UserList
        monkeypatch.setitem(sys.modules, "pandas", pandas)
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    rows = list(frame) if isinstance(frame, collections.UserList) else frame.to_dict("records")
    assert rows == result.rows()


def test_markdown(result):
    lines = result.to_markdown().splitlines()
    assert lines[0] == "| attack | clean | ε = 2/255 | ε = 4/255 | ε = 8/255 |"
    assert lines[2] == (
        "| fgsm | 75.0 [40.9–92.9] | 62.5 [30.6–86.3] | 50.0 [21.5–78.5] | 37.5 [13.7–69.4] |"
    )
    assert lines[5].startswith("| worst case | 75.0")
    assert lines[-1] == "Accuracy in % over all 8 images, L∞ radius ε; in brackets 95 % Wilson intervals."
    assert repr(result) == (
        "RobustAccuracy(8 images: clean 75.0 %, worst case 62.5 % at 2/255, 50.0 % at 4/255, 37.5 % at 8/255)"
    )


def test_the_plot_starts_at_the_clean_accuracy(result, tmp_path):
    figure = result.plot(tmp_path / "accuracy.png")
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["fgsm", "pgd", "deepfool", "worst case"]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    low, high = (100 * end for end in metrics.wilson_interval(3, 8))
    for end in (low, high):
        assert np.abs(heights - end).min() < 1e-6
    np.testing.assert_allclose(lines["fgsm"].get_xdata(), [0, 2, 4, 8], rtol=1e-6)
    np.testing.assert_allclose(lines["fgsm"].get_ydata(), [75, 62.5, 50, 37.5])
    assert "levels of 255" in axes.get_xlabel()
    from PIL import Image

    assert Image.open(tmp_path / "accuracy.png").size[0] > 500
    with pytest.raises(InputError, match=r"must end in .png, .pdf or .svg, not 'accuracy.gif'"):
        result.plot(tmp_path / "accuracy.gif")


def test_the_plot_of_another_norm_has_no_levels():
    figure = evaluate("apgd", (0.1, 0.2), norm="l2").plot()
    (axes,) = figure.axes
    assert axes.get_xlabel() == "L2 radius ε"
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ()}, "attacks must name at least one attack"),
        ({"attacks": "fgms"}, "unknown attack 'fgms'; choose from: .*fgsm"),
        ({"attacks": {"name": "fgsm", "size": 1}}, "attack 'fgsm': .*'size'; its options are"),
        ({"attacks": None}, "attacks must be a name, an attack, or a list of them, not None"),
        ({"attacks": {"name": "pgd", "targeted": True}}, "attack 'pgd' is targeted, and the labels are"),
        ({"attacks": attacks.pgd(0.1, targeted=True)}, "attack 'GradientSign' is targeted"),
        (
            {"attacks": attacks.minimal_epsilon(attacks.ifgsm(4 / 255))},
            r"attack 'MinimalEpsilon' searches up to ε = 0.01569 .* largest of the epsilons, 0.03137",
        ),
        (
            {"attacks": attacks.minimal_epsilon(attacks.ifgsm(1.0)), "norm": "l2"},
            "attack 'MinimalEpsilon' keeps its perturbation in a ball of the norm linf, not l2",
        ),
        ({"attacks": [3]}, "an attack must be a name, a dictionary, an attack or a function of ε, not 3"),
        ({"norm": "l2"}, "attack 'fgsm' keeps its perturbation in a ball of the norm linf, not l2; choose"),
        ({"norm": "l2", "attacks": attacks.autoattack()}, "'AutoAttack' .* of the norm linf, not l2"),
        ({"epsilons": ()}, "epsilons must rise"),
        ({"epsilons": (0.2, 0.1)}, r"epsilons must rise, not \[0.2, 0.1\]"),
        ({"epsilons": (8,)}, r"write 8 / 255"),
        ({"norm": "Linf"}, "unknown norm 'Linf'; choose from: linf, l2, l1"),
        ({"threat": "black_box"}, "unknown threat 'black_box'; choose from: white_box, gray_box"),
        ({"labels": LABELS + 1}, "label 2 of image 1 is outside the classes 0 to 1"),
        ({"images": IMAGES * 255}, r"images must lie in \[0, 1\]"),
        ({"key": 0}, r"key must be made with jax.random.key"),
        ({"draws": 0}, "draws must be an integer of at least 1, not 0"),
        ({"attacks": {"mine": "pgd"}}, r'has its name in it, as {"name": "pgd", "steps": 40}, not {.mine'),
        ({"defense": "jpeg"}, "a defense must be one like defenses.create"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(InputError, match=message):
        evaluate(**options)


def test_one_radius_may_be_an_array_without_a_dimension():
    assert evaluate(epsilons=np.array(2 / 255)).epsilons == evaluate(epsilons=2 / 255).epsilons == (2 / 255,)


def test_an_attack_is_named_once():
    with pytest.raises(InputError, match="'bim' and 'I-FGSM' are the same attack; name it once"):
        evaluate(["bim", "fgsm", "I-FGSM"])
    # With options of their own they are two.
    steps = [{"name": "ifgsm", "steps": steps} for steps in (1, 2)]
    assert evaluate(steps).attacks == ("ifgsm", "ifgsm (2)", "worst case")


def test_a_repeated_attack_says_which():
    by_name = {"name": "repeat", "attack": "pgd", "n": 2, "steps": 2}
    found = evaluate([by_name, attacks.pgd(2 / 255, steps=2).repeat(2)], epsilons=(2 / 255,))
    assert found.attacks == ("repeat of pgd", "Repeated GradientSign", "worst case")
