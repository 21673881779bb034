import hashlib
import inspect
import re
import sys
import warnings

import numpy as np
import pytest

from srdef import attacks, datasets, defenses, models
from srdef.errors import InputError, SrdefWarning
from srdef.own_code import by_name
from srdef.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("fruit")

    @registry.register("apple")
    def apple(size=1, *, colour="red"):
        return ("apple", size, colour)

    return registry


def test_create_passes_options(registry):
    assert registry.create("apple", size=2, colour="green") == ("apple", 2, "green")
    assert registry.names() == ["apple"]


def test_unknown_name_lists_the_names(registry):
    with pytest.raises(InputError, match=r"unknown fruit 'pear'; choose from: apple"):
        registry.create("pear")


def test_unknown_option_lists_the_options(registry):
    with pytest.raises(InputError, match=r"fruit 'apple': .*'taste'; its options are: size, colour"):
        registry.create("apple", taste="sour")


def test_an_error_inside_the_builder_is_not_an_option_error(registry):
    @registry.register("stone")
    def stone():
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        registry.create("stone")


def test_registering_again_replaces(registry):
    """As when a notebook's cell is run again."""
    registry.register("apple")(lambda: "another apple")
    assert registry.create("apple") == "another apple"
    assert registry.names() == ["apple"]


@pytest.mark.parametrize(
    ("kind", "name", "what"),
    [
        (attacks, "pgd", "is srdef's own"),
        (attacks, "PGD", "is another name of srdef's own 'pgd'"),
        (attacks, "bim", "is another name of srdef's own 'ifgsm'"),
        (defenses, "jpeg", "is srdef's own"),
        (models, "resnet50", "is srdef's own"),
        (datasets, "cifar10", "is srdef's own"),
    ],
)
def test_a_name_of_srdefs_own_stays_what_it_is(kind, name, what):
    """A result of "pgd" would be another attack's."""
    before = kind.REGISTRY.builder(name)
    with pytest.raises(InputError, match=f"{name}' {what}; choose another name"):
        kind.REGISTRY.register(name)(lambda: "mine")
    assert kind.REGISTRY.builder(name) is before


def test_a_name_of_ones_own_is_registered_again_beside_srdefs(monkeypatch):
    monkeypatch.setattr(attacks.REGISTRY, "_builders", dict(attacks.REGISTRY._builders))
    for result in ("first", "second"):
        attacks.REGISTRY.register("pgd_of_mine")(lambda result=result: result)
        assert attacks.REGISTRY.create("pgd_of_mine") == result


MINE = """
from helpers_of_mine import double

NUMBER = 3


def build(size=1):
    return ("mine", double(size))


def nothing():
    pass
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules of a user's own; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(by_name, "_folders", [])
    monkeypatch.setattr(by_name, "_imported", {})
    monkeypatch.setattr(by_name, "_registering", {})
    monkeypatch.setattr(by_name, "_places", {})
    monkeypatch.setattr(by_name, "_added", set())
    (tmp_path / "mine_a.py").write_text(MINE)
    (tmp_path / "helpers_of_mine.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inner.py").write_text("from mine_a import build\n")
    before = set(sys.modules)
    yield tmp_path
    forget(tmp_path, before)


def forget(folder, before):
    for name in set(sys.modules) - before:
        if str(folder.parent) in repr(sys.modules[name]):
            del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["mine_a:build", "mine_a.py:build", "./mine_a.py:build", "package_of_mine.inner:build"]
)
def test_functions_of_ones_own(registry, folder, name):
    assert registry.create(name, size=4) == ("mine", 8)
    assert registry.names() == ["apple"]
    with pytest.raises(InputError, match=r"unexpected keyword argument 'taste'; its options are: size"):
        registry.create(name, taste="sour")


def test_a_file_and_its_module_are_one(registry, folder):
    assert registry.builder("mine_a:build") is registry.builder(f"{folder}/mine_a.py:build")


def test_files_whose_names_are_taken_or_no_names(registry, folder):
    """By JSON of Python, by an installed package, and by nothing that could be imported."""
    for name in ("json.py", "numpy.py", "my-model 2.py"):
        (folder / name).write_text(f"def build():\n    return {name!r}\n")
        assert registry.create(f"{name}:build") == name
    import json

    assert json.loads("[1]") == [1]


def test_the_folder_of_a_configuration(registry, folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match=r"fruit 'mine_a.py:build': no file .*elsewhere\d+/mine_a.py"):
        registry.builder("mine_a.py:build")
    by_name.look_in(folder)
    assert registry.create("mine_a.py:build") == registry.create("mine_a:build") == ("mine", 2)


def a_folder_with(parent, word, helper="helpers_of_a_move"):
    """A folder with `mine_of_a_move.py`, and what that imports: both say `word`."""
    place = parent / word
    (place / "package_of_a_move").mkdir(parents=True)
    (place / "mine_of_a_move.py").write_text(f"def build():\n    return {word!r}\n")
    (place / "uses_of_a_move.py").write_text(f"from {helper} import build\n")
    (place / f"{helper}.py").write_text(f"def build():\n    return {word!r}\n")
    (place / "package_of_a_move" / "__init__.py").write_text("")
    (place / "package_of_a_move" / "inner.py").write_text(f"def build():\n    return {word!r}\n")
    return place


def test_a_name_means_the_module_in_the_folder_of_today(registry, folder, monkeypatch):
    """As in a notebook that changes folders: not what the name has meant in the folder before."""
    for word in ("first", "second", "first"):
        place = folder / word if (folder / word).exists() else a_folder_with(folder, word)
        monkeypatch.chdir(place)
        assert registry.create("mine_of_a_move.py:build") == word
        assert registry.create("mine_of_a_move:build") == word


def test_a_name_not_imported_before_is_looked_for_in_the_folder_of_today_first(registry, folder, monkeypatch):
    first, second = (a_folder_with(folder, word) for word in ("first", "second"))
    monkeypatch.chdir(first)
    assert registry.create("mine_of_a_move:build") == "first"
    monkeypatch.chdir(second)
    assert registry.create("uses_of_a_move:build") == "second"


def test_the_latest_configuration_s_folder_comes_first(registry, folder):
    for word in ("first", "second"):
        by_name.look_in(a_folder_with(folder, word))
        assert registry.create("mine_of_a_move.py:build") == word


@pytest.mark.parametrize(
    ("before", "name", "taken"),
    [
        ("uses_of_a_move:build", "uses_of_a_move:build", "helpers_of_a_move"),
        ("uses_of_a_move.py:build", "uses_of_a_move.py:build", "helpers_of_a_move"),
        ("helpers_of_a_move:build", "uses_of_a_move:build", "helpers_of_a_move"),
        ("package_of_a_move.inner:build", "package_of_a_move.inner:build", "package_of_a_move"),
    ],
)
def test_modules_of_two_folders_are_not_mixed(registry, folder, monkeypatch, before, name, taken):
    """What a module imports, and a package: Python keeps one of each name."""
    first, second = (a_folder_with(folder, word) for word in ("first", "second"))
    monkeypatch.chdir(first)
    assert registry.create(before) == "first"
    monkeypatch.chdir(second)
    with pytest.raises(InputError, match=f"another module '{taken}' is loaded in the place of .*/second/"):
        registry.create(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine_b:build", r"fruit 'mine_b:build': no module 'mine_b', neither installed nor in /"),
        ("package_of_mine.outer:build", "no module 'package_of_mine.outer'"),
        ("mine_a:biuld", r"fruit 'mine_a:biuld': mine_a has no 'biuld'; it has: build, nothing"),
        ("mine_a.py:biuld", r"mine_a.py has no 'biuld'; it has: build, nothing"),
        ("mine_a:NUMBER", "NUMBER is no function or class, but int"),
        ("mine_a:nothing", "the function returned nothing"),
        (":build", r"a name with a colon is MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("mine_a:", r"a name with a colon is MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("mine_a:f()", r"a name with a colon is MODULE:FUNCTION or FILE.py:FUNCTION"),
        ("os:system", r"'os' is a module of Python itself; .* its file: os.py:FUNCTION"),
        ("none/mine.py:build", r"no file .*/none/mine.py"),
        ("syntax.py:build", r"syntax.py, line 1: "),
        ("fails:build", r"fails.py, line 2: ZeroDivisionError: division by zero"),
        ("fails.py:build", r"fails.py, line 2: ZeroDivisionError: division by zero"),
        ("lacks:build", r"lacks.py, line 1: ModuleNotFoundError: No module named 'pear_tree'"),
        ("leaves.py:build", r"leaves.py, line 1: SystemExit: 3"),
    ],
)
def test_one_line_for_what_cannot_be_imported(registry, folder, name, message):
    (folder / "syntax.py").write_text("def build(:\n")
    (folder / "fails.py").write_text("x = 0\n1 / x\n")
    (folder / "lacks.py").write_text("import pear_tree\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InputError, match=message) as error:
        registry.create(name)
    assert "\n" not in str(error.value)


def test_what_was_imported_is_found_again_from_elsewhere(registry, folder, monkeypatch, tmp_path_factory):
    """By name, by file, and what has registered itself; from the same files, changed or not."""
    (folder / "registers_mine.py").write_text(
        "from srdef import defenses\n\n\n@defenses.REGISTRY.register('mine')\ndef build():\n    return 1\n"
    )
    before = set(sys.modules)
    for name in ("mine_a.py:build", "package_of_mine.inner:build", "registers_mine:build"):
        registry.builder(name)
    noted = by_name.imports()
    assert set(noted) >= {"mine_a.py:build", "package_of_mine.inner:build", "registers_mine"}
    assert noted["mine_a.py:build"]["sha256"] == hashlib.sha256(MINE.encode()).hexdigest()

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine_a.py").write_text("def build(size=1):\n    return 'another'\n")
    monkeypatch.chdir(elsewhere)
    for names in (by_name._imported, by_name._registering, defenses.REGISTRY._builders):
        monkeypatch.delitem(names, "mine", raising=False)
    forget(folder, before)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(folder)])
    monkeypatch.setattr(by_name, "_folders", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_name.restore(noted)
    assert registry.create("mine_a.py:build") == ("mine", 2)
    assert registry.create("package_of_mine.inner:build") == ("mine", 2)
    assert defenses.create("mine") == 1

    (folder / "mine_a.py").write_text(MINE + "\n")
    with pytest.warns(SrdefWarning, match=r"mine_a.py, which the run imported, has changed since then"):
        by_name.restore({"mine_a.py:build": noted["mine_a.py:build"]})
    (folder / "mine_a.py").unlink()
    with pytest.warns(SrdefWarning, match=r"mine_a.py, which the run imported, is not there any more"):
        by_name.restore({"mine_a.py:build": noted["mine_a.py:build"]})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: attacks.pgd(eps=8 / 255),
            "eps is called epsilon here; its options are: epsilon, step_size",
        ),
        (lambda: attacks.create("pgd", alpha=1), "alpha is called step_size here; its options are"),
        (lambda: attacks.square(1 / 255, n_queries=5), "attack 'square': .*n_queries is called queries here"),
        (lambda: attacks.fgsm(1 / 255, size=3), "'size'; its options are: epsilon"),
        (lambda: attacks.simba(eps=0.2), "eps is called step_size here; its options are"),
        (lambda: attacks.square(1 / 255, max_iter=5), "max_iter is called queries here"),
        (lambda: attacks.spsa(nb_sample=5), "nb_sample is called samples here"),
    ],
)
def test_options_of_other_libraries_are_answered_with_their_names_here(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("value", ["no", 2, None, [True]])
def test_flags_are_true_or_false(value):
    """Of functions and of classes; any text would count as true."""
    for call, flag in (
        (lambda: attacks.square(1 / 255, targeted=value), "targeted"),
        (lambda: attacks.create("simba", stop_early=value), "stop_early"),
        (lambda: attacks.create("pgd", random_start=value), "random_start"),
    ):
        with pytest.raises(InputError, match=f"{flag} must be True or False, not"):
            call()
    assert attacks.pgd(random_start=np.bool_(False)).random_start == False  # noqa: E712


# What Admix needs beside the options that are tried; the wrappers need an attack.
BANK = {"bank": np.full((1, 8, 8, 3), 0.5, np.float32)}
WRAPPERS = ("repeat", "minimal_epsilon")
NUMBERS = [
    pytest.param(module, name, option, id=f"{name}-{option}")
    for module in (attacks, defenses)
    for name in module.list_names()
    if name not in WRAPPERS
    for option, parameter in inspect.signature(module.REGISTRY.builder(name)).parameters.items()
    if re.search(r"\b(int|float)\b", inspect.formatannotation(parameter.annotation))
]
# With 0 they leave every image where it is, or keep a search from ever finding anything.
MOVING = {"step_size", "learning_rate", "initial_const", "eta", "radius", "first_distance"}


def test_there_are_numbers_to_try():
    assert {option for _, _, option in (case.values for case in NUMBERS)} > MOVING
    assert len(NUMBERS) > 150


@pytest.mark.parametrize(("module", "name", "option"), NUMBERS)
def test_no_number_is_infinite_or_a_truth_value(module, name, option):
    needed = BANK if name == "admix" else {}
    for value in (np.inf, np.nan, True, False):
        with pytest.raises(InputError, match=option):
            module.create(name, **{option: value}, **needed)
    if module is attacks and option in MOVING:
        with pytest.raises(InputError, match=f"{option} must be greater than 0"):
            module.create(name, **{option: 0.0}, **needed)


def test_the_step_may_be_zero_where_epsilon_is():
    epsilons = np.array([0, 4 / 255], np.float32)
    assert attacks.pgd(epsilons, step_size=epsilons / 4).step_size[0] == 0
    with pytest.raises(InputError, match="step_size must be greater than 0"):
        attacks.pgd(epsilons[::-1], step_size=epsilons / 4)
