"""The configurations: structure of all, and resolution of those whose weights are installed."""

import importlib
import json

import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import manifold
from configs import paper as shared
from srdef import defenses, models
from srdef.commands import cli, defense_gallery
from srdef.errors import InputError
from srdef.evaluation import schema
from srdef.evaluation.experiment import (
    CLEAN,
    FIELDS,
    OPTIONAL,
    make_defense,
    resolve,
    split_entry,
)
from srdef.evaluation.paper_tables import TABLES, Reference
from srdef.evaluation.patch_banks import refuse_own_patches

TABLE_CONFIGS = [f"table{number}" for number in TABLES]
ARGUMENTS = ["lite0", "lite2,3x60", "inception_v3,downloads", "resnet50,4x100,downloads"]


def config_of(name, argument=None):
    module = importlib.import_module(f"configs.{name}")
    return cli.plain(module.get_config(argument) if argument else module.get_config())


def sections(config):
    """A configuration and every part of it."""
    yield config
    for value in config.values():
        if isinstance(value, ConfigDict):
            yield from sections(value)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, "lite0") for name in [*TABLE_CONFIGS, "nips2017", "manifold"]),
        ("manifold", "study,lite2,224"),
        *(("adaptive", argument) for argument in ["samples", "nips_lite2", "nips,short", "nips,long"]),
        *(("figures", figure) for figure in ["figure1", "spectra,nips2017"]),
        *(("smallest_epsilon", argument) for argument in ["lite0", "lite2,edsr_baseline_x2,curve"]),
        *(("clean_cost", argument) for argument in ["lite0", "lite2_260,small"]),
        ("quickstart", None),
        ("defense_gallery", None),
        ("transfer", "few"),
    ],
)
def test_a_changed_field_changes_nothing_else(name, argument):
    module = importlib.import_module(f"configs.{name}")
    found = list(sections(module.get_config(argument) if argument else module.get_config()))
    assert len({id(section) for section in found}) == len(found)


EVALUATED = ["nips2017", "quickstart", "sr_networks", "defense_gallery", "smallest_epsilon", "clean_cost"]


@pytest.mark.parametrize("name", [*TABLE_CONFIGS, *EVALUATED])
def test_the_schema_knows_every_field(name):
    schema.check("evaluation", config_of(name))


def test_rows_and_columns_say_what_the_paper_calls_them():
    config = config_of("quickstart")
    steps = [{"name": "wavelet"}, {"name": "jpeg"}]
    config["defenses"] = {"mine": {"defense": steps, "paper": "WD+SR", "passes": 2}, "steps": steps}
    schema.check("evaluation", config)
    for wrong, message in (
        ({"defense": steps, "paper": 3}, r'defenses\["mine"\]\.paper must be a string'),
        ({"defense": [], "paper": "SR"}, r'defenses\["mine"\]\.defense must be a list of at least 1'),
        ({"defense": steps, "papers": "SR"}, r'unknown field config\.defenses\["mine"\]\.papers'),
    ):
        config["defenses"]["mine"] = wrong
        with pytest.raises(InputError, match=message):
            schema.check("evaluation", config)


def steps_of(config):
    for entry in config["defenses"].values():
        entry, _ = split_entry(entry)
        yield from entry if isinstance(entry, list) else [entry]


@pytest.mark.parametrize("name", TABLE_CONFIGS)
@pytest.mark.parametrize("argument", ARGUMENTS)
def test_structure(name, argument):
    config = config_of(name, argument)
    assert set(config) == {*FIELDS, *OPTIONAL} - {"arithmetic"}  # float32 unless one says otherwise
    assert config["classifier"]["name"] in models.list_names()
    assert next(iter(config["defenses"])) == "no defense"
    for step in steps_of(config):
        assert step["name"] in defenses.list_names()
        if "network" in step:
            assert step["network"] in models.list_names()
        if "bank" in step:  # patches as large as in the images, but not theirs
            assert step["bank"]["dataset"] == {
                "name": "imagenet_samples",
                "size": config["dataset"]["size"],
            }
    table = Reference.of(config)
    assert table.table == int(name[-1])
    if config["classifier"]["name"] in TABLES[table.table].rows:
        assert table.classifier == config["classifier"]["name"]


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_the_papers_numbers_find_their_places(name, monkeypatch):
    """Every number of the paper for this classifier stands in one of our cells."""
    monkeypatch.setenv("SRDEF_SRRESNET", "srresnet.safetensors")
    monkeypatch.setenv("SRDEF_SRGAN", "srgan.safetensors")
    config = config_of(name, "lite0,downloads")
    table = Reference.of(config)
    found = {
        table.percent(row, column) for row in config["defenses"] for column in (CLEAN, *config["attacks"])
    }
    printed = TABLES[table.table].rows[table.classifier]
    assert found - {None} == {number for row in printed.values() for number in row}


@pytest.mark.parametrize(
    "argument", ["lite9", "lite0,3x", "lite0,3x60,4x60", "lite0,fast", "lite0,0x60", "lite0,3x60x2"]
)
def test_bad_arguments(argument):
    with pytest.raises(InputError, match=r"unknown argument .*; choose from: classifier=lite0 \| lite2"):
        shared.start(1, argument)


@pytest.mark.parametrize("argument", ["lite0", "lite2,samples,3x20", "study,lite0,160", "study,samples"])
def test_the_schema_knows_every_field_of_the_manifold(argument):
    schema.check("manifold", cli.plain(manifold.get_config(argument)))


def test_the_study_takes_crops_of_all_folders(monkeypatch):
    monkeypatch.setenv("SRDEF_NIPS2017", "nips")
    monkeypatch.setenv("SRDEF_SR_TRAIN", "sr")
    config = manifold.get_config("study,lite0,224,3x20")
    assert config.dataset.name == "crops"
    assert config.dataset.side == 224
    assert config.dataset.paths == ("nips/images", "sr/bsd200", "sr/t91", "sr/debian")
    assert "C&W 3x20" in config.attacks
    assert set(config.study.controls) < set(config.attacks)
    with pytest.raises(InputError, match="the side of crops is that of a study"):
        manifold.get_config("lite0,224")
    for side in ("0", "-5"):
        with pytest.raises(InputError, match=f"the side of crops must be at least 1 pixel, not {side}"):
            manifold.get_config(f"study,samples,{side}")


@pytest.mark.parametrize("argument", ["lite0,3x", "lite0,3x60,4x60", "lite0,downloads"])
def test_bad_arguments_of_the_manifold(argument):
    with pytest.raises(InputError, match="unknown argument"):
        manifold.get_config(argument)


def test_budget_of_the_manifold_pairs():
    config = manifold.get_config("lite2,samples,2x7")
    assert config.dataset.name == "imagenet_samples"
    assert dict(config.attacks["C&W 2x7"]) == {
        "name": "carlini_wagner",
        "binary_search_steps": 2,
        "max_iterations": 7,
        "storage": "uint8",
        "paper": "C&W",
    }
    assert {attack.storage for attack in config.attacks.values()} == {"uint8"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two images in the competition's layout."""
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.new("RGB", (40, 40), "red").save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "images.csv").write_text("ImageId,TrueLabel\na,1\nb,2\n")
    monkeypatch.setenv("SRDEF_NIPS2017", str(tmp_path))


@pytest.mark.parametrize("name", TABLE_CONFIGS)
def test_installed_weights_are_enough(name, small):
    config = config_of(name, "lite0,3x60")
    for step in steps_of(config):
        if "bank" in step:
            step["bank"]["count"] = 20
    experiment = resolve(config)
    assert list(experiment.defenses) == list(config["defenses"])
    assert "C&W 3x60" in experiment.attacks


@pytest.mark.parametrize(
    ("section", "label", "option", "message"),
    [
        ("attacks", "I-FGSM", {"step_size": 0}, "step_size must be greater than 0, but is 0"),
        ("defenses", "SR", {"network": "squeezenet"}, "'squeezenet' is not a super-resolution network"),
    ],
)
def test_an_entry_that_cannot_be_made_is_named(section, label, option, message):
    config = config_of("quickstart")
    config[section][label] |= option
    with pytest.raises(InputError, match=rf'^config\.{section}\["{label}"\]: .*{message}'):
        resolve(config)


def test_a_bank_of_the_evaluated_images_is_refused():
    config = config_of("defense_gallery")
    source = config["defenses"]["quilting"]["bank"]["dataset"]
    source["offset"] = config["dataset"]["offset"]
    with pytest.raises(InputError, match="defense 'quilting': its patch bank would be made of the images"):
        resolve(config)


def test_a_bank_of_evaluated_images_is_refused_whatever_the_stride():
    source = {"name": "nips2017", "path": "folder"}
    bank = {"bank": {"dataset": {**source, "offset": 100, "limit": 50}}}
    evaluated = {**source, "stride": 2, "limit": 50}  # rows 0, 2, ..., 98
    refuse_own_patches("quilting", bank, evaluated)
    with pytest.raises(InputError, match="its patch bank would be made of the images"):
        refuse_own_patches("quilting", bank, {**evaluated, "limit": 51})


@pytest.mark.parametrize("other", ["./photographs", "photographs/", "link", "{}/photographs"])
def test_a_bank_of_evaluated_images_is_refused_under_another_path(tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    (tmp_path / "link").symlink_to("photographs")
    bank = {"bank": {"dataset": {"name": "folder", "path": other.format(tmp_path)}}}
    with pytest.raises(InputError, match="its patch bank would be made of the images"):
        refuse_own_patches("quilting", bank, {"name": "folder", "path": "photographs"})
    refuse_own_patches("quilting", bank, {"name": "folder", "path": "others"})


def test_table_1_in_both_readings():
    """Nothing but the columns is new with `smallest`, and nothing but super-resolution with a network."""
    usual, both = (config_of("table1", f"lite0,3x60{more}") for more in ("", ",smallest"))
    table, diverse = (
        config_of("smallest_epsilon", f"lite0,{part}")["attacks"] for part in ("table", "diverse")
    )
    assert list(diverse) == ["DI²FGSM min", "MDI²FGSM min"]
    smallest = {label: entry for label, entry in table.items() if label.endswith(" min")}
    assert len(smallest) == 3
    assert both.pop("attacks") == usual["attacks"] | smallest
    assert both == {field: usual[field] for field in both}
    for name in ("table1", "table2", "table5"):
        networks = {
            step["network"] for step in steps_of(config_of(name, "edsr_baseline_x2")) if "network" in step
        }
        assert networks == {"edsr_baseline_x2"}


def test_the_smallest_epsilon_beside_the_papers_budgets(small):
    """All parts together are the parts; a search for the smallest ε is of the attack of its column."""
    config = config_of("smallest_epsilon", "lite0")
    parts = [config_of("smallest_epsilon", f"lite0,{part}")["attacks"] for part in ("table", "curve")]
    assert config["attacks"] == parts[0] | parts[1]
    experiment = resolve(config)
    table = Reference.of(config)
    for label, attack in experiment.attacks.items():
        if label.endswith(" min"):
            usual = experiment.attacks[
                label.removesuffix(" min").replace("FGSM", "FGSM-2", label == "FGSM min")
            ]
            assert attack.attack.momentum == usual.momentum
            assert attack.attack.diverse_inputs == usual.diverse_inputs
            assert experiment.storage[label] == "float32"
            name = label.removesuffix(" min")
            expected = None if name == "FGSM" else table.percent("WD+SR", name)
            assert table.percent("WD+SR", label) == expected
    curve = [255 * experiment.attacks[label].epsilon for label in parts[1] if label.startswith("I-FGSM")]
    assert curve == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 16])


@pytest.mark.parametrize("network", ["compact", "small"])
def test_the_row_as_released_is_the_released_pipeline(network):
    """The other rows take away one of its two parts each."""
    config = config_of("clean_cost")["defenses"]
    released, with_file, channel = (
        make_defense(config[f"{row}, {network}"]).defenses
        for row in ("as released", "WD+JPEG+SR", "WD (channel)+SR")
    )
    assert channel[0] == released[0]
    assert with_file[0] == released[0].replace(sigma_scaling="rescaled")
    assert with_file[1:3] == released[1:3]
    assert with_file[3].round_to_8_bits == released[3].round_to_8_bits
    assert len(channel) == 2


def test_one_network_of_clean_cost_leaves_all_else():
    all_rows, few = (config_of("clean_cost", argument)["defenses"] for argument in ["lite1", "lite1,small"])
    others = [row for row in all_rows if row.endswith((", compact", ", baseline"))]
    assert few == {row: defense for row, defense in all_rows.items() if row not in others}
    assert len(others) == 10


def test_adaptive_knows_every_registered_defense():
    config = config_of("adaptive", "nips")
    entries = [
        entry.get("defense", entry) if isinstance(entry, dict) else entry
        for entry in config["defenses"].values()
    ]
    names = {step["name"] for entry in entries for step in (entry if isinstance(entry, list) else [entry])}
    # Quilting is there with TVM, as the paper's row.
    assert names == set(defenses.list_names()) - {"quilting"}
    assert set(config["rows"]) < set(config["defenses"])


def test_gallery_shows_every_registered_defense():
    config = config_of("defense_gallery")
    assert {step["name"] for step in steps_of(config)} == set(defenses.list_names())


@pytest.mark.slow
def test_gallery_script(tmp_path, capsys):
    module = importlib.import_module("configs.defense_gallery")
    config = module.get_config()
    plain = json.loads(config.to_json())
    config.defenses = {name: plain["defenses"][name] for name in ("no defense", "WD", "bicubic x2")}
    config.dataset.size, config.dataset.limit = 128, 4
    defense_gallery.main(config, tmp_path / "run")
    assert Image.open(tmp_path / "run" / "defense_gallery.png").width > 400
    assert "bicubic x2" in capsys.readouterr().out
