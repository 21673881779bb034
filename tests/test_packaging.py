"""The wheel: what is in it, and the command `srdef` out of it in an empty folder."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import srdef

ROOT = Path(__file__).parents[1]


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_requirements_are_those_of_the_extras():
    """`requirements.txt` is the whole: the library's list, and those of all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    extras = project["optional-dependencies"]
    files = [*project["dependencies"]["file"], *extras["experiments"]["file"], *extras["samples"]["file"]]
    assert requirements("requirements.txt") == [f"-r {file}" for file in files]
    assert extras["all"]["file"] == [*extras["experiments"]["file"], *extras["samples"]["file"]]
    names = [line for file in files for line in requirements(file)]
    assert len(set(names)) == len(names)


def test_the_version_is_one():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert srdef.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as building leaves folders behind."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("srdef", "configs", "experiments"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*ROOT.glob("requirements*.txt"), *(ROOT / name for name in ("README.md", "LICENSE"))]:
        shutil.copy(file, source)
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    process = subprocess.run([*pip, "--wheel-dir", source, source], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    (file,) = source.glob("*.whl")
    return file


@pytest.mark.slow
def test_only_srdef_is_installed_and_all_of_it(wheel):
    found = set(zipfile.ZipFile(wheel).namelist())
    assert {Path(name).parts[0].split("-")[0] for name in found} == {"srdef"}
    tracked = {
        *(file.relative_to(ROOT).as_posix() for file in (ROOT / "srdef").rglob("*") if file.is_file()),
        *(f"srdef/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "configs").glob("*.py")),
    }
    kept = {name for name in tracked if "__pycache__" not in name}
    assert kept == {name for name in found if name.startswith("srdef/")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "nips2017:lite2", "--config.dataset.path=none"], "folder none does not exist"),
        (["evaluate", "folder:photos", "--config.seed=x"], "config.seed must be a whole number, not 'x'"),
        (["evaluate", "mine.py"], "config.seed must be a whole number of at least 0 and at most 4294967295"),
        (["adaptive", "adaptive:samples,lite2,long", "--config.final_draws=1"], "config.final_draws must be"),
        (["train-sr", "train_edsr:small_x2", "--config.train_folder=none"], "folder none does not exist"),
    ],
)
def test_the_command_out_of_the_wheel(wheel, tmp_path, words, message):
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "from srdef.configs import quickstart\n\n\ndef get_config():\n"
        "    config = quickstart.get_config()\n    config.seed = -1\n    return config\n"
    )
    process = subprocess.run(
        [sys.executable, "-m", "srdef", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1
    assert message in process.stderr
    assert not (folder / "workdir").exists() or words[0] == "train-sr"
