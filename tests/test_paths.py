"""`~` in every option, field and argument that is a path: a shell leaves it after a `=`."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from srdef import datasets, defenses, models
from srdef.cache import folder as cache_folder
from srdef.cache import keep_programs
from srdef.commands import (
    cli,
    configuration,
    convert_weights,
    evaluate_sr,
    network_table,
    train_all,
    train_sr,
)
from srdef.commands.benchmarks import common
from srdef.configs import train_edsr
from srdef.datasets import selection, tfds
from srdef.defenses import patch_bank
from srdef.detection import training
from srdef.errors import InputError
from srdef.paths import expanded
from srdef.reporting import figure1
from srdef.storage import files
from srdef.training import super_resolution
from srdef.weights import loading, readers


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder, with the weights of a network; what is run must leave nothing where it runs."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    loading.save_safetensors(models.create("edsr_small_x2", seed=3), home / "w.safetensors")
    yield home
    assert list(here.iterdir()) == []


def run(module, *words):
    module.COMMAND.run(cli.parse("name", "", module.COMMAND, words))


def same(a, b):
    np.testing.assert_array_equal(readers.read(a)["tail.kernel"], readers.read(b)["tail.kernel"])


def test_weights(home):
    run(convert_weights, "edsr_small_x2", "~/w.safetensors", "--output=~/copy.safetensors")
    same(home / "w.safetensors", home / "copy.safetensors")
    network = models.create("edsr_small_x2", weights="~/copy.safetensors")
    loading.save_safetensors(network, "~/again.safetensors")
    same(home / "w.safetensors", "~/again.safetensors")


def test_training(home, monkeypatch):
    config = train_edsr.get_config("small_x2")
    config.update({"initial_weights": "~/w.safetensors", "train_folder": "~/photographs"})
    network = super_resolution.initial_network(config)
    np.testing.assert_array_equal(
        loading.flatten(network)["tail.kernel"], readers.read(home / "w.safetensors")["tail.kernel"]
    )
    (home / "photographs").mkdir()
    assert set(train_sr._contents(config, None)) == {"train_folder", "initial_weights"}
    given = []
    monkeypatch.setattr(train_all, "main", lambda *arguments: given.extend(arguments[1:]))
    run(train_all, "--workdir=~/work", "--train_folder=x", "--weights_folder=~/weights")
    assert given == [home / "work", home / "weights"]


def test_tables(home, monkeypatch):
    monkeypatch.setattr(network_table, "text", lambda: "tables")
    (home / "photographs").mkdir()
    Image.new("RGB", (32, 32), (9, 99, 199)).save(home / "photographs" / "a.png")
    run(
        evaluate_sr, "edsr_small_x2=~/w.safetensors", "--folder=~/photographs",
        "--table=~/t.md", "--table=~/t.json",
    )  # fmt: skip
    assert {"t.md", "t.json"} <= {file.name for file in home.iterdir()}
    (home / "d.md").write_text("\n".join(network_table.MARKS))
    run(network_table, "--document=~/d.md")
    assert "tables" in (home / "d.md").read_text()
    parser = cli.Parser()
    common.add_options(parser)
    settings = common.Settings.of(parser.parse_args(["--write=~/b.md"]))
    assert settings.write == home / "b.md"


def test_images_and_patch_banks(home, rng, monkeypatch):
    np.save(home / "x.npy", np.zeros((2, 8, 8, 3), np.float32))
    np.save(home / "y.npy", np.zeros(2, int))
    assert len(datasets.load("arrays", path="~/x.npy", labels="~/y.npy")) == 2
    bank = patch_bank.build_bank([rng.integers(0, 256, (9, 9, 3), np.uint8)], 4)
    bank.save("~/bank")
    np.testing.assert_array_equal(patch_bank.load_bank("~/bank").patches, bank.patches)
    chosen = selection.Selection("arrays", 8, "none", "x", "hash", 0, 2, [0], ["a"], [0])
    chosen.save("~/chosen/list.json")
    assert selection.Selection.read("~/chosen/list.json") == chosen
    loaded = []
    monkeypatch.setattr(training, "load", loaded.append)
    monkeypatch.setattr(figure1, "hidden_features", lambda *arguments, **options: None)
    run = SimpleNamespace(experiment=SimpleNamespace(batch_size=1))
    figure1._hidden({"detector": "~/detector"}, run, np.zeros((1, 8, 8, 3), np.float32))
    assert loaded == [home / "detector"]


def test_the_cache_and_configurations(home, monkeypatch):
    monkeypatch.setenv("SRDEF_CACHE", "~/cache")
    assert cache_folder() == home / "cache"
    (home / "mine.py").write_text("def get_config():\n    return {'a': 1}\n")
    assert configuration.load("~/mine.py") == {"a": 1}
    files.check_writable("~/new/file.md")
    files.write_atomically("~/file.md", "text")
    assert (home / "file.md").read_text() == "text"


@pytest.mark.parametrize(
    "call",
    [
        expanded,
        readers.read,
        selection.Selection.read,
        patch_bank.load_bank,
        lambda path: datasets.load("folder", path=path),
        configuration.load,
        files.check_writable,
        lambda path: datasets.load("arrays", path=path),
        lambda path: tfds.open_builder("mnist", "here", data_dir=path),
        lambda path: models.create("edsr_small_x2", weights=path),
        lambda path: cli.parse("report", "", cli.Command(print, workdir=True), [f"--workdir={path}"]),
    ],
)
def test_a_home_folder_that_is_not_there(call):
    with pytest.raises(InputError, match=r"^~no-such-user/x.py: there is no home folder ~no-such-user$"):
        call("~no-such-user/x.py")


def test_a_cache_in_a_home_folder_that_is_not_there(monkeypatch):
    """Nothing is kept, as in a folder that cannot be written to."""
    monkeypatch.setenv("SRDEF_CACHE", "~no-such-user/x")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    keep_programs()


def test_what_is_no_path():
    for other in (np.zeros(3), 3, None):
        with pytest.raises(
            InputError, match=f"^a path must be a string or a Path, not {type(other).__name__}$"
        ):
            expanded(other)
    with pytest.raises(InputError, match=r"^patch bank: give the path of one, .* not ndarray$"):
        defenses.create("quilting", bank=np.zeros((50, 5, 5, 3)))
