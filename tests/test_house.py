"""The order of the house: who imports whom, and how long a file may be."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import srdef

ROOT = Path(srdef.__file__).parent
FILES = sorted(file for file in ROOT.rglob("*.py") if "configs" not in file.relative_to(ROOT).parts)

# From the ground up: a room imports from those before it, and none from those after it.
ORDER = (
    "errors",
    "cores",
    "paths",
    "huge_pages",
    "interrupts",
    "cache",
    "images",
    "keys",
    "own_code",
    "programs",
    "registry",
    "validation",
    "memory",
    "batching",
    "metrics",
    "cpu",
    "storage",
    "weights",
    "models",
    "datasets",
    "defenses",
    "victims",
    "attacks",
    "training",
    "interpret",
    "evaluation",
    "detection",
    "reporting",
    "robustness",
    "configs",
    "commands",
    "command",
    "__main__",
)

# Rooms that have to be ignorant of others, though those come before them.
BLIND = {
    "attacks": {"defenses", "datasets", "models", "storage"},
    "evaluation": {"interpret", "training"},
}

LONGEST = 300
# Files that are longer, each for a reason.
LONG = {
    "attacks/apgd.py": "one attack with its schedule in three norms",
    "attacks/autoattack.py": "one attack made of four, and the checks of its victim",
    "evaluation/run.py": "one class: each kind of result that a run keeps, with what it depends on",
    "evaluation/schema.py": "every field of every configuration, in one place to look them up",
    "models/frameworks.py": "one reading of each other framework's networks",
    "robustness.py": "one function with all that it takes and returns",
    "training/super_resolution.py": "one trainer, whose steps share their state",
}


def room_of(file):
    return file.relative_to(ROOT).with_suffix("").parts[0]


def imported(tree):
    """The rooms that a module imports from, inside functions too, but not for annotations alone."""
    annotations = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            top, *rest = name.split(".")
            if top == "srdef" and rest and not rest[0].startswith("__"):
                yield rest[0]


def test_every_room_has_its_place():
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms | {"configs"} == set(ORDER)


def test_imports_run_one_way():
    backwards = []
    for file in FILES:
        room = room_of(file)
        if room == "__init__":
            continue
        for other in set(imported(ast.parse(file.read_text()))) - {room}:
            if ORDER.index(other) > ORDER.index(room) or other in BLIND.get(room, ()):
                backwards.append(f"{file.relative_to(ROOT)} imports {other}")
    assert backwards == []


def test_programs_tell_classes_apart():
    """All are compiled by `srdef.programs.jit`; but benchmarks measure what JAX's own takes."""
    others = [
        str(file.relative_to(ROOT))
        for file in FILES
        if "benchmarks" not in file.parts
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("jax.jit", "nnx.jit")
    ]
    assert others == ["programs.py"]


def test_files_are_short_or_have_a_reason():
    long = {str(file.relative_to(ROOT)) for file in FILES if len(file.read_text().splitlines()) > LONGEST}
    assert long == set(LONG)


def test_the_reader_of_imports_sees_all_kinds():
    text = """
import srdef.attacks.base
from srdef import victims, __version__
if TYPE_CHECKING:
    from srdef.reporting import page
def f():
    from srdef.storage.files import save
"""
    assert sorted(imported(ast.parse(text))) == ["attacks", "storage", "victims"]


@pytest.mark.parametrize("name", srdef.ROOMS)
def test_rooms_are_attributes(name):
    assert getattr(srdef, name) is importlib.import_module(f"srdef.{name}")
    assert name in dir(srdef)


def test_rooms_are_those_that_there_are():
    private = {"__main__", "cache", "command", "commands", "configs", "cores", "huge_pages"}
    private |= {"interrupts", "keys", "memory", "own_code", "paths", "programs"}
    assert set(srdef.ROOMS) == set(ORDER) - private
    with pytest.raises(AttributeError, match="no attribute 'attack'"):
        _ = srdef.attack


def imports(statement):
    """What a fresh process has imported after a statement."""
    code = f"{statement}; import sys; print('\\n'.join(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_importing_srdef_imports_nothing_else():
    assert not imports("import srdef") & {"jax", "numpy", "flax", "matplotlib"}


def test_the_main_job_imports_nothing_that_it_may_not_need():
    found = imports("import srdef.commands.evaluate")
    assert not found & {"matplotlib", "pyarrow", "orbax", "orbax.checkpoint", "torch", "tensorflow"}
