"""`srdef attack`: own models, data and attacks by file, the table, what it leaves, and mistakes."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from srdef import datasets
from srdef.commands import attack, cli
from srdef.errors import InputError
from srdef.own_code import by_name

MINE = """
import flax.struct
import jax.numpy as jnp
from srdef import attacks


def build(steepness=20.0):
    def model(images):
        score = steepness * (images.mean((1, 2, 3)) - 0.5)
        return jnp.stack([-score, score], axis=-1)

    return model


def greedy():
    def model(images):  # takes 16 TiB for each image
        table = jnp.sin(jnp.arange(2.0**42) + images.mean((1, 2, 3))[:, None])
        return jnp.cumsum(table, axis=1)[:, :2]

    return model


def stripes(count=6):
    import numpy as np

    levels = np.array([-20, -6, -3, 3, 6, 20])[:count]
    images = np.broadcast_to((0.5 + levels / 255)[:, None, None, None], (count, 4, 4, 3))
    return images, levels > 0


def labelled(count=6):
    images, labels = stripes(count)
    return images, labels.astype(int)


def three(count=3):
    return stripes(count)[0], [0, 1, 2]


def gentle(epsilon=8 / 255):
    return attacks.fgsm(epsilon / 2)


@flax.struct.dataclass
class Brighten:
    levels: float = 0.0
    random = False
    differentiable = True

    def __call__(self, image, key):
        return image + self.levels / 255
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with `mine.py`, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(by_name, "_folders", [])
    for known in ("_imported", "_registering", "_places"):
        monkeypatch.setattr(by_name, known, {})
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # that of another test
    (tmp_path / "mine.py").write_text(MINE)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in repr(sys.modules[name]):
            del sys.modules[name]


def run(*words):
    return cli.run("attack", attack, ["--model=mine.py:build", "--data=mine.py:labelled", *words])


def accuracies(file):
    with file.open() as lines:
        return {
            (row["attack"], round(255 * float(row["epsilon"]), 3)): float(row["accuracy"])
            for row in csv.DictReader(lines)
        }


def test_prints_and_leaves_what_evaluate_robustness_gives(folder, capsys):
    words = ("--attacks=fgsm,mine.py:gentle", "--epsilons=2/255,4/255,8/255", "--output=out")
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "6 images of 4x4x3" in printed
    assert "fgsm, ε = 4/255: accuracy 66.7%" in printed
    assert "worst case" in printed
    assert sorted(file.name for file in (folder / "out").iterdir()) == [
        "config.json",
        "environment.json",
        "robustness.csv",
        "robustness.md",
        "robustness.png",
    ]
    # Margins of 3, 6 and 20 levels on either side; the gentle attack moves half as far as it may.
    assert accuracies(folder / "out" / "robustness.csv") == pytest.approx(
        {
            ("clean", 0): 1,
            **{("fgsm", 2): 1, ("fgsm", 4): 2 / 3, ("fgsm", 8): 1 / 3},
            **{("mine.py:gentle", 2): 1, ("mine.py:gentle", 4): 1, ("mine.py:gentle", 8): 2 / 3},
            **{("worst case", 2): 1, ("worst case", 4): 2 / 3, ("worst case", 8): 1 / 3},
        }
    )
    imports = json.loads((folder / "out" / "environment.json").read_text())["imports"]
    assert set(imports) == {"mine.py:build", "mine.py:labelled", "mine.py:gentle"}
    assert {entry["file"] for entry in imports.values()} == {str(folder / "mine.py")}

    # Other settings do not replace it unasked.
    assert run("--attacks=fgsm", "--epsilons=2/255", "--output=out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: out holds the results of another configuration: config.attacks is [")
    assert error.endswith("choose another --output, or replace them by --overwrite\n")  # nothing else is kept
    assert run("--attacks=fgsm", "--epsilons=2/255", "--output=out", "--overwrite") == 0
    assert set(accuracies(folder / "out" / "robustness.csv")) == {("clean", 0), ("fgsm", 2)}


def test_leaves_what_the_attacks_did_on_their_way(folder, capsys):
    words = ("--attacks=fgsm,pgd:steps=3,ddn:steps=5", "--epsilons=4/255,8/255", "--output=out")
    assert run(*words) == 0
    table = (folder / "out" / "robustness.csv").read_text()
    kept = {name: (folder / "out" / name).read_bytes() for name in ("robustness.md", "config.json")}
    # A trace changes neither results nor settings.
    assert run(*words, "--trace") == 0
    assert all((folder / "out" / name).read_bytes() == content for name, content in kept.items())
    assert "no trace" not in capsys.readouterr().out
    assert Image.open(folder / "out" / "trace.png").width > 1000
    with (folder / "out" / "trace.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["attack", "epsilon", "image", "step", "loss", "margin", "success"]

    def of(attack, epsilon):
        chosen = [row for row in rows if row["attack"] == attack]
        chosen = [row for row in chosen if row["epsilon"] == ("" if epsilon is None else str(epsilon))]
        return {(int(row["image"]), int(row["step"])): row for row in chosen}

    # Images are 3, 6 and 20 levels from the edge on either side, which the margin says in units of 40 / 255.
    first, second = of("fgsm", 4 / 255), of("fgsm", 8 / 255)
    assert set(first) == {(image, step) for image in range(6) for step in range(2)}
    # Those that are broken at a smaller ε are not attacked again.
    assert {image for image, _ in second} == {0, 1, 4, 5}
    for image, levels in enumerate((20, 6, 3, 3, 6, 20)):
        assert float(first[image, 0]["margin"]) == pytest.approx(-levels * 40 / 255, rel=1e-4)
        assert float(first[image, 1]["margin"]) == pytest.approx(-(levels - 4) * 40 / 255, rel=1e-4)
        assert first[image, 1]["success"] == str(int(levels < 4))
    assert {step for _, step in of("pgd", 4 / 255)} == {0, 1, 2, 3}
    # Runs once, at no ε of its own.
    assert len(of("ddn", None)) == 6 * 6
    # The next run's folder has no trace of this one.
    assert run(*words) == 0
    assert not (folder / "out" / "trace.csv").exists()
    assert not (folder / "out" / "trace.png").exists()
    assert accuracies(folder / "out" / "robustness.csv").keys() == {
        (row["attack"], round(255 * float(row["epsilon"]), 3)) for row in csv.DictReader(table.splitlines())
    }


def test_no_image_to_attack_no_trace(folder, capsys):
    wrong = "mine.py:build:steepness=-20"
    assert run(f"--model={wrong}", "--attacks=fgsm", "--output=out", "--trace") == 0
    assert "no image was attacked, as none is classified correctly: there is no trace" in " ".join(
        capsys.readouterr().out.split()
    )
    assert not (folder / "out" / "trace.csv").exists()


def test_ctrl_c_says_that_nothing_is_kept(folder, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(attack, "evaluate_robustness", stop)
    assert run("--output=out") == 130
    assert capsys.readouterr().err == "stopped; the same command starts again from the beginning\n"
    assert not (folder / "out").exists()


def test_options_defense_norm_and_limit(folder):
    """One of the first two images lies 6 levels below the edge, which the defense makes 1."""
    words = (
        "--data=mine.py:labelled:count=5",
        "--model=mine:build:steepness=15",
        "--limit=2",
        f"--epsilons={2 / 255 * np.sqrt(48)}",
        "--norm=l2",
        "--defense=mine.py:Brighten:levels=5+identity",
        "--output=out",
    )
    assert run(*words, "--attacks=APGD-CE:steps=5", "--targets=second") == 0
    assert sorted(accuracies(folder / "out" / "robustness.csv").values()) == [0.5, 1]
    config = json.loads((folder / "out" / "config.json").read_text())
    # An alias is written as what it stands for.
    assert config["attacks"] == [{"name": "apgd", "steps": 5, "loss": "cross_entropy"}]
    assert config["targets"] == "second"
    assert config["defense"] == [{"name": "mine.py:Brighten", "levels": 5}, {"name": "identity"}]
    assert config["limit"] == 2


def test_arrays_and_folders_as_data(folder, capsys):
    from PIL import Image

    levels = np.array([100, 126, 129, 150], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (4, 4, 4, 3))
    np.savez("data.npz", images=images, labels=[0, 0, 1, 1])
    (folder / "pictures").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(f"pictures/{index}.png")
    (folder / "pictures" / "labels.csv").write_text("file,label\n0.png,0\n1.png,0\n2.png,1\n3.png,1\n")
    for data in ("data.npz", "pictures", "folder:path=pictures,num_classes=2", "arrays:path=data.npz"):
        words = ("--attacks=fgsm", "--epsilons=3/255", f"--data={data}", "--output=out", "--overwrite")
        assert run(*words) == 0
        assert accuracies(folder / "out" / "robustness.csv") == {("clean", 0): 1, ("fgsm", 3): 0.5}
    # Without labels, those that the model gives, which it says.
    assert run("--attacks=fgsm", "--epsilons=3/255", "--data=folder:path=pictures,labels=predicted") == 0
    assert "4 images without a label: the model's own prediction is their label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("apgd", {"name": "apgd"}),
        ("pgd:steps=40,restarts=2", {"name": "pgd", "steps": 40, "restarts": 2}),
        ("mine.py:build", {"name": "mine.py:build"}),
        ("a.b:build:width=3,bounds=(0, 255)", {"name": "a.b:build", "width": 3, "bounds": (0, 255)}),
        ("jpeg:quality=none", {"name": "jpeg", "quality": None}),
        ("fgsm:epsilon=2/255", {"name": "fgsm", "epsilon": 2 / 255}),
        ("folder:path=a:b/c,labels=x.csv", {"name": "folder", "path": "a:b/c", "labels": "x.csv"}),
    ],
)
def test_names_with_options(text, entry):
    assert attack.specification(text, "model") == entry


def test_lists_of_names_with_options():
    found = attack.specifications("pgd:steps=40,restarts=2,mine.py:build,apgd:steps=3", "attacks")
    assert found == [
        {"name": "pgd", "steps": 40, "restarts": 2},
        {"name": "mine.py:build"},
        {"name": "apgd", "steps": 3},
    ]


def test_registered_models_have_their_weights_and_size(monkeypatch):
    """Without building them: what is asked of `models.create` and `datasets.load`."""
    asked = []

    class Made:
        num_classes, image_size = 1000, 224

    monkeypatch.setattr(
        attack.models, "create", lambda name, **options: asked.append((name, options)) or Made
    )
    dataset = datasets.load("arrays", images=np.zeros((1, 4, 4, 3), np.uint8), labels=[0])
    monkeypatch.setattr(datasets, "load", lambda name, **options: asked.append((name, options)) or dataset)
    attack.make_model({"name": "efficientnet_lite0"})
    attack.make_model({"name": "efficientnet_lite0", "pretrained": False})
    attack.make_model({"name": "mine.py:build", "width": 3})
    assert asked == [
        ("efficientnet_lite0", {"pretrained": True}),
        ("efficientnet_lite0", {"pretrained": False}),
        ("mine.py:build", {"width": 3}),
    ]
    asked.clear()
    attack.load({"name": "imagenet_samples"}, 3, Made, "mine")
    attack.load({"name": "imagenet_samples", "size": 64}, None, Made, "mine")
    attack.load({"name": "cifar10"}, None, Made, "mine")
    attack.load({"name": "folder"}, None, Made, "mine")
    attack.load({"name": "folder", "num_classes": 7}, None, Made, "mine")
    assert [options.get("size") for _, options in asked] == [224, 64, None, 224, 224]
    assert [options.get("num_classes") for _, options in asked] == [None, None, None, 1000, 7]
    assert asked[0][1]["limit"] == 3


def test_data_are_of_the_classes_of_the_model(folder, capsys):
    """Classes counted from 1, or a class for the background, would else be wrong numbers without a word."""
    for index, name in enumerate(("cat", "dog")):
        (folder / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (100 + 50 * index,) * 3).save(folder / "pictures" / name / "0.png")
    words = ("--attacks=fgsm", "--epsilons=3/255", "--output=out")
    assert run("--data=pictures", *words) == 0
    assert accuracies(folder / "out" / "robustness.csv") == {("clean", 0): 1, ("fgsm", 3): 1}
    capsys.readouterr()
    for data, message in (
        ("folder:path=pictures/cat,labels=predicted,num_classes=3", "data set 'folder' has 3 classes"),
        ("mine.py:three", "data set 'mine.py:three' has at least 3 classes"),
        ("arrays:path=one.npz,num_classes=1", "data set 'arrays' has 1 classes"),
    ):
        np.savez("one.npz", images=np.zeros((1, 4, 4, 3), np.uint8), labels=[0])
        assert run(f"--data={data}", "--attacks=fgsm") == 2
        assert f"error: {message}, model 'mine.py:build' has 2" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model="], "say which model: --model=NAME, or --model=FILE.py:FUNCTION of your own"),
        (["--data="], "say which data: --data=NAME"),
        (
            ["--model=mine.py:biuld"],
            "model 'mine.py:biuld': mine.py has no 'biuld'; it has: build, ",
        ),
        (["--model=yours.py:build"], "model 'yours.py:build': no file "),
        (
            ["--model=mine.py:build:depth=3"],
            "'mine.py:build': got an unexpected keyword argument 'depth'",
        ),
        (["--model=mine.py:build:pretrained=true"], "its options are: steepness"),
        (["--model=mine.py:Brighten"], "model 'mine.py:Brighten': "),
        (["--model=mine.py:greedy"], "not enough memory for batches of 2 images (Out of memory allocating"),
        (["--model=efficientnet"], "unknown model 'efficientnet'; choose from: "),
        (["--model=edsr_small_x2"], "model 'edsr_small_x2' is not a classifier"),
        (["--data=cifar11"], "unknown data set 'cifar11'; choose from: "),
        (["--data=none.npz"], "none.npz: cannot be read (No such file or directory)"),
        (["--data=mine.py:stripes"], "data set 'mine.py:stripes': labels must be integers, not bool"),
        (["--data=mine.py:gentle"], "the function must return a Source or images, labels"),
        (["--attacks=fgsm,fgms"], "unknown attack 'fgms'; choose from: "),
        (
            ["--attacks=fgsm,pgd:steps=5:restarts=2"],
            "--attacks: 'steps=5:restarts=2' has a colon between options; separate them by commas",
        ),
        (["--attacks=fgsm:"], "--attacks=fgsm:: write NAME, or NAME:OPTION=VALUE,..."),
        (["--attacks=fgsm:size=3"], "attack 'fgsm': got an unexpected keyword argument 'size'"),
        (["--attacks=pgd:steps=3,restarts"], "unknown attack 'restarts'"),
        (["--epsilons=8/0"], "--epsilons: '8/0' is no number"),
        (["--epsilons=8/255,2/255"], "epsilons must rise"),
        (["--epsilons=8"], "epsilon is in units of the [0, 1] range (write 8 / 255), but is 8.0"),
        (["--norm=linfinity"], "argument --norm: invalid choice: 'linfinity'"),
        (["--defense=wavelets"], "unknown defense 'wavelets'; choose from: identity"),
        (["--limit=0"], "--limit must be at least 1, not 0"),
        (["--batch_size=x"], "argument --batch_size: invalid int value: 'x'"),
        (["--epsilon=8/255"], "unknown option --epsilon; did you mean --epsilons?"),
        (["cifar10"], "unexpected argument 'cifar10'"),
        (["--config.seed=3"], "attack takes no configuration"),
        (["--trace"], "--trace leaves a picture and a table: say where, --output=FOLDER"),
        (
            ["--attacks=fgsm,autoattack", "--trace", "--output=out"],
            "attack 'autoattack' has no trace, as it runs several: name these instead of it",
        ),
        # Before the model is made, and not after the attack.
        (
            ["--output=mine.py/out", "--attacks=fgsm", "--model=mine.py:build:depth=3"],
            "cannot write mine.py/out/config.json (Not a directory)",
        ),
    ],
)
def test_one_line_for_mistakes(folder, words, message, capsys):
    assert run("--limit=2", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_model_in_training_mode_is_refused(folder):
    with (folder / "mine.py").open("a") as file:
        file.write(
            "\n\ndef training():\n    import torch\n\n    return torch.nn.Sequential(torch.nn.Flatten())\n"
        )
    with pytest.raises(InputError, match=r"model 'mine.py:training': .*is in training mode; call .eval"):
        attack.make_model({"name": "mine.py:training"})


def test_the_whole_image_is_a_way_to_crop():
    """Elsewhere "none" stands for no value at all."""
    assert attack.data_specification("folder:path=pictures,crop=none")["crop"] == "none"
    assert attack.data_specification("folder:path=pictures,crop=center")["crop"] == "center"
    assert attack.data_specification("folder:path=pictures,index=none")["index"] is None
