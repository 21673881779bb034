"""Changes on the command line, configuration files of users, and values that a configuration may not have."""

import copy
import json
import math

import pytest

from configs import (
    adaptive,
    common,
    defense_gallery,
    figures,
    folder,
    manifold,
    quickstart,
    train_edsr,
    transfer,
)
from srdef.commands import cli, configuration
from srdef.errors import InputError
from srdef.evaluation import schema


def changed(*changes, config=None):
    config = configuration.plain(quickstart.get_config()) if config is None else config
    configuration.apply(config, changes)
    schema.check("evaluation", config)
    return config


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ("config.seed=7", ["seed"], 7),
        ("config.attacks.FGSM-2.epsilon=3/255", ["attacks", "FGSM-2", "epsilon"], 3 / 255),
        ('config.attacks["FGSM-2"].epsilon=0.25', ["attacks", "FGSM-2", "epsilon"], 0.25),
        ("config.attacks['C&W 3x60'].max_iterations=9", ["attacks", "C&W 3x60", "max_iterations"], 9),
        ("config.attacks[I-FGSM].epsilon=1", ["attacks", "I-FGSM", "epsilon"], 1.0),
        ("config.attacks.FGSM-2.epsilon=04/255", ["attacks", "FGSM-2", "epsilon"], 4 / 255),
        (
            "config.attacks.FGSM-2={'name': 'fgsm', 'epsilon': 4/255}",
            ["attacks", "FGSM-2", "epsilon"],
            4 / 255,
        ),
        ("config.seed=007", ["seed"], 7),
        ("config.attacks.I-FGSM.steps=3", ["attacks", "I-FGSM", "steps"], 3),  # which the file leaves out
        ("config.defenses.WD+SR[0].sigma=0.1", ["defenses", "WD+SR", 0, "sigma"], 0.1),
        ('config.defenses.mine={"name": "jpeg"}', ["defenses", "mine"], {"name": "jpeg"}),
        ("config.dataset.limit=4", ["dataset", "limit"], 4),
        ("config.dataset.limit=none", ["dataset", "limit"], None),
        ("config.classifier.pretrained=false", ["classifier", "pretrained"], False),
        ("config.gallery.attack='FGSM-5'", ["gallery", "attack"], "FGSM-5"),
        (
            "config.defenses.mine={'name': 'quilting', 'bank': {'dataset': {'path': 'a/b'}}, 'paper': 'Q'}",
            ["defenses", "mine"],
            {"name": "quilting", "bank": {"dataset": {"path": "a/b"}}, "paper": "Q"},
        ),
    ],
)
def test_any_value_can_be_changed(change, path, value):
    found = changed(change)
    for part in path:
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_another_data_set():
    """A new name keeps what the new one knows: `size`, and not `stride`."""
    config = configuration.plain(quickstart.get_config())
    config["dataset"] = common.nips2017(160, limit=5)
    found = changed("config.dataset.name=folder", "config.dataset.path=photos", config=config)
    assert found["dataset"] == {"name": "folder", "path": "photos", "size": 160, "offset": 0, "limit": 5}
    # In the other order too.
    config["dataset"] = {"name": "imagenet_samples", "size": 160}
    found = changed("config.dataset.path=photos", "config.dataset.name=folder", config=config)
    assert found["dataset"] == {"name": "folder", "path": "photos", "size": 160}
    # That of a patch bank is not the evaluated one.
    gallery = configuration.plain(defense_gallery.get_config())
    found = changed("config.defenses.quilting.bank.dataset.name=folder", config=gallery)
    assert found["dataset"]["name"] == "imagenet_samples"
    assert "bank" in found["defenses"]["quilting"]


def test_a_model_of_ones_own_is_not_asked_for_trained_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_of_this_test.py").write_text("def build(width=3):\n    pass\n")
    found = changed(
        "config.classifier.name=model_of_this_test.py:build",
        "config.classifier.width=4",
        "config.classifier.seed=1",
    )
    assert found["classifier"] == {"name": "model_of_this_test.py:build", "width": 4, "seed": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("('exact', 'EOT')", ["exact", "EOT"]),
        ('["exact"]', ["exact"]),
        ("exact,EOT", ["exact", "EOT"]),
        ("", []),
        ("('/data/a', 'b/c')", ["/data/a", "b/c"]),
        ('["/data/a"]', ["/data/a"]),
        ("/data/a,b/c", ["/data/a", "b/c"]),
        ("(2/255, -8/255)", [2 / 255, -8 / 255]),
        ("2/255,8/255", [2 / 255, 8 / 255]),
        ("1/0,2", ["1/0", 2]),
        ("02/255,08/255", [2 / 255, 8 / 255]),
        ("(02/255, -08/255)", [2 / 255, -8 / 255]),
        ("'007','04/255'", ["007", "04/255"]),
    ],
)
def test_lists(text, value):
    config = configuration.plain(adaptive.get_config())
    configuration.apply(config, [f"config.columns={text}"])
    assert config["columns"] == value


def test_two_words_are_one_change():
    words = ["quickstart", "--config.seed", "3", "--workdir=x", "--config=f.py", "--config.batch_size=2"]
    changes, others = configuration.split(words)
    assert changes == ["config.seed=3", "config.batch_size=2"]
    assert others == ["quickstart", "--workdir=x", "--config=f.py"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("config.attaks.FGSM-2.epsilon=1", "config has no part 'attaks'; choose from: seed, batch_size"),
        ("config.attacks.FGSM-3.epsilon=1", "config.attacks has no part 'FGSM-3'; choose from: FGSM-2, "),
        (
            "config.attacks.FGSM-2.epsylon=1",
            "attack 'fgsm' has no option 'epsylon';",
        ),
        ("config.defenses.WD+SR[2].sigma=1", 'config.defenses["WD+SR"] has no part 2; choose from: 0, 1'),
        ("config.defenses.WD+SR.sigma=1", "has no part 'sigma'"),
        ("config.seed.x=1", "config.seed has no part 'x'"),
        ("config.bacth_size=3", "unknown field config.bacth_size; choose from: seed, batch_size"),
        ("config.seed=x", "config.seed must be a whole number, not 'x'"),
        (
            "config.seed=1.5",
            "config.seed must be a whole number of at least 0 and at most 4294967295, not 1.5",
        ),
        ("config.seed=4294967296", "config.seed must be a whole number of at least 0 and at most 4294967295"),
        ("config.seed=-1", "config.seed must be a whole number of at least 0 and at most 4294967295, not -1"),
        ("config.seed=" + "9" * 30, "config.seed must be a number within 64 bits"),
        ("config.seed=" + "9" * 5000, "config.seed must be a whole number, not '999"),
        ("config.classifier.pretrained=1", "config.classifier.pretrained must be true or false, not '1'"),
        ("config.attacks.FGSM-2.epsilon=1e999", "must be a finite number, not inf"),
        ("config.attacks.FGSM-2.epsilon=" + "9" * 400, "must be a number"),
        ("config.attacks.FGSM-2.epsilon=" + "9" * 400 + "/255", "must be a number"),
        ("config.attacks.FGSM-2.epsilon=1/0", "must be a number, not '1/0'"),
        ("config.attacks.FGSM-2.epsilon=True/2", "must be a number, not 'True/2'"),
        ("config.attacks=3", "config.attacks must be a dictionary, not '3'"),
        ("config.attacks={}", "config.attacks must be a dictionary of at least one entry"),
        ("config.dataset.name=imagenet", "unknown data set 'imagenet'; choose from: "),
        ("config.dataset.size=" + "[" * 500, "config.dataset.size must be a whole number"),
        ("config.defenses.WD=" + "[" * 30 + "]" * 30, "must be a dictionary"),
        ("config.=1", "a name is missing"),
        ("config.attacks[FGSM-2=1", "a bracket is not closed"),
    ],
)
def test_changes_that_mean_nothing(change, message):
    with pytest.raises(InputError) as caught:
        changed(change)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"mine\.py, line 1: invalid syntax"),
        ("import nothing_of_this_name\n", r"mine\.py, line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n", r"mine\.py has no function get_config"),
        ("get_config = 3\n", r"mine\.py has no function get_config"),
        ("def get_config():\n    return 3\n", "must be a ConfigDict or a dictionary, not 3"),
        ("def get_config():\n    return None\n", "must be a ConfigDict or a dictionary, not None"),
        ("def get_config():\n    pass\n    return 1 / 0\n", r"mine\.py, line 3: ZeroDivisionError: division"),
        ("def get_config():\n    raise SystemExit(4)\n", r"mine\.py, line 2: SystemExit: 4"),
        ("def get_config():\n    return get_config()\n", r"RecursionError"),
        (
            "def get_config():\n    return {'seed': {1, 2}}\n",
            "a number, a string, a list or a dictionary",
        ),
        ("def get_config():\n    return {1: 2}\n", "names must be strings, not 1"),
        (
            "def get_config():\n    return {'seed': print}\n",
            "a number, a string, a list or a dictionary",
        ),
        ("def get_config():\n    return {'seed': float('nan')}\n", r"config\.seed must be a finite number"),
        ("def get_config():\n    return {'seed': 2**64}\n", r"config\.seed must be a number within 64 bits"),
        ("def get_config():\n    return {'x' * 10**6: 2}\n", "unknown field config.xxx"),
        (
            "def get_config():\n    return {'seed': 'x' * 10**6}\n",
            "at most 4096 characters, not 1000000",
        ),
        ("def get_config():\n    a = {}\n    a['a'] = a\n    return a\n", "nested too deeply"),
        ("def get_config():\n    raise ValueError('x' * 10**6)\n", "line 2: ValueError: xxx"),
        ("def get_config(x):\n    return {}\n", r"mine\.py takes an argument, as in NAME:ARGUMENT"),
    ],
)
def test_files_that_are_no_configuration(tmp_path, text, message):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        cli.parse("evaluate", "", COMMAND, [f"--config={file}"])
    assert len(str(caught.value)) < 400 + len(str(file))
    assert "\n" not in str(caught.value)


COMMAND = cli.Command(lambda options: None, schema="evaluation", workdir=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say which configuration: --config=FILE.py, or one by name: adaptive, "),
        (["quikstart"], "unknown configuration 'quikstart'; did you mean quickstart?"),
        (["--config=none.py"], "configuration none.py: no such file"),
        (["--config=none/quickstart.py"], "no such file; a configuration that comes with srdef: quickstart"),
        (["--config=."], "unknown configuration '.'; choose from"),
        (["quickstart:x"], "quickstart.py takes no argument"),
        (["quickstart", "--config=nips2017"], "two configurations, quickstart and --config=nips2017"),
        (["quickstart", "--workdir="], "--workdir is empty; name a folder"),
        (["quickstart", "--workdir"], "argument --workdir: expected one argument"),
        (["quickstart", "x"], "unexpected argument 'x'; options are written --name=value"),
        (["quickstart", "--wrokdir=x"], "unknown option --wrokdir; did you mean --workdir?"),
        (["adaptive"], "unknown field config.other_classifier; choose from: seed"),
        (["folder"], "say where the images are: folder:PATH"),
    ],
)
def test_command_lines_that_mean_nothing(words, message):
    with pytest.raises(InputError) as caught:
        cli.parse("evaluate", "", COMMAND, words)
    assert message in str(caught.value)


def test_workdirs_of_configurations():
    def workdir(*words):
        return str(cli.parse("evaluate", "", COMMAND, words).workdir)

    assert workdir("quickstart") == "workdir/quickstart"
    assert workdir("nips2017:lite2") == "workdir/nips2017-lite2"
    assert workdir("--config=configs/nips2017.py:lite2") == "workdir/nips2017-lite2"
    assert workdir("folder:my/photos") == "workdir/folder-my_photos"
    assert workdir("quickstart", "--workdir=here") == "here"


def test_a_configuration_may_lie_anywhere_and_be_a_dictionary(tmp_path):
    """It uses those that come with srdef, as they do each other."""
    (tmp_path / "mine.py").write_text(
        "from srdef.configs import quickstart\n\n\ndef get_config(seed='1'):\n"
        "    return {**quickstart.get_config().to_dict(), 'seed': int(seed)}\n"
    )
    for text, seed in ((f"{tmp_path}/mine.py", 1), (f"{tmp_path}/mine.py:5", 5)):
        options = cli.parse("evaluate", "", COMMAND, [text])
        assert options.config["seed"] == seed
        schema.check("evaluation", options.config)


def test_parse_arg():
    keys = {"size": common.choice("s", "m"), "cw": common.budget(), "name": common.Key("", str, "NAME")}

    def parse(argument):
        return dict(common.parse_arg(argument, **keys, fast=False))

    usual = {"size": "s", "cw": None, "name": "", "fast": False}
    assert parse("") == usual
    assert parse("m") == parse("size=m") == usual | {"size": "m"}
    assert parse("fast, 3x60") == parse("cw=3x60,fast=true") == usual | {"cw": (3, 60), "fast": True}
    assert parse("m,s") == usual | {"size": "m", "name": "s"}  # the first key that takes it and has none
    assert parse("fast=false") == usual
    for argument, message in (
        ("size=l", r"argument size=l: choose from: s \| m"),
        ("cw=3x", "argument cw=3x: choose from: ROUNDSxSTEPS"),
        ("fast=1", r"argument fast=1: choose from: true \| false"),
        ("fast,fast", "gives fast twice"),
        ("size=s,size=m", "gives size twice"),
        (
            "speed=1",
            r"choose from: size=s \| m, cw=ROUNDSxSTEPS, name=NAME, fast",
        ),
    ):
        with pytest.raises(InputError, match=message):
            parse(argument)


# Of every kind; some are right in some fields.
VALUES = [
    *(None, True, "", "x", "\0", "\ud800", "x" * 10**6),
    *(0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**5000, 0.0, 0.5, -0.5, 1e30, math.nan, math.inf),
    *([], {}, [1], ["x"], {"x": 1}, {"name": "x"}, {"name": 3}, [[]], object(), {1, 2}, {1: 2}, b"x"),
]
CONFIGS = {
    "evaluation": defense_gallery.get_config(),
    "adaptive": adaptive.get_config(),
    "manifold": manifold.get_config("study,samples"),
    "transfer": transfer.get_config(),
    "figures": figures.get_config("figure5"),
    "training": train_edsr.get_config("srgan_x2,gpu"),
}


def answer(kind, config):
    """The message of the schema; "" if the configuration passes."""
    try:
        schema.check(kind, config)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", ["transfer", "adaptive"])
@pytest.mark.parametrize("beside", [{"passes": 3}, {"paper": "RP"}])
def test_a_defense_has_nothing_beside_it_where_no_table_is_made(kind, beside):
    config = configuration.plain(CONFIGS[kind]) | {"defenses": {"rp": {"name": "resize_pad", **beside}}}
    (option,) = beside
    found = answer(kind, config)
    assert "config.defenses" in found
    assert repr(option) in found
    assert found.count(option) == 1  # and not among its options
    assert not answer(
        "evaluation", configuration.plain(CONFIGS["evaluation"]) | {"defenses": config["defenses"]}
    )


def places(value, path=()):
    """The path of every field."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in inside:
        yield (*path, name)
        yield from places(part, (*path, name))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_value_in_every_field_is_right_or_answered_in_one_line(kind):
    config = configuration.plain(CONFIGS[kind])
    schema.check(kind, config)
    refused = 0
    for path in places(config):
        for value in VALUES:
            broken = copy.deepcopy(config)
            *parents, last = path
            place = broken
            for part in parents:
                place = place[part]
            place[last] = value
            message = answer(kind, broken)
            assert len(message) < 500, (path, value)
            assert "\n" not in message
            refused += bool(message)
            if not message:  # what passes can be written
                json.dumps(broken, allow_nan=False)
    assert refused > 0.7 * len(VALUES) * len(list(places(config)))


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_but_the_optional_must_be_there(kind):
    config = configuration.plain(CONFIGS[kind])
    for name in list(config):
        broken = {key: value for key, value in config.items() if key != name}
        if schema.SCHEMAS[kind][name].optional:
            schema.check(kind, broken)
        else:
            with pytest.raises(InputError, match=f"field config.{name} is missing"):
                schema.check(kind, broken)


def test_images_of_a_folder(tmp_path):
    found = configuration.load(f"folder:{tmp_path},lite2")
    assert found["dataset"]["path"] == str(tmp_path)
    assert found["dataset"]["labels"] == "predicted"
    assert found["classifier"]["name"] == "efficientnet_lite2"
    schema.check("evaluation", found)
    assert folder.get_config(f"path={tmp_path},labels=directories").dataset.labels == "directories"
