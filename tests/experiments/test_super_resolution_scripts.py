"""`evaluate_sr` and `train_all` on tiny images: tables beside scikit-image, resuming, bad input."""

import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from srdef import models
from srdef.commands import cli, evaluate_sr, train_all, train_sr
from srdef.errors import InputError
from srdef.models.edsr import EDSR
from srdef.models.registry import REGISTRY
from srdef.models.srresnet import SRResNet
from srdef.training import patches, quality, super_resolution
from srdef.weights import loading


@pytest.fixture
def folder(tmp_path, rng):
    folder = tmp_path / "Set2"
    folder.mkdir()
    for i, size in enumerate([(67, 64), (64, 64)]):
        noise = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        noise.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def train_options(**values):
    """The options of `train-all`, with some of them changed."""
    options = cli.parse("train-all", "", train_all.COMMAND, ["--workdir=unused"])
    assert set(values) <= set(vars(options))
    vars(options).update(values)
    return options


def by_scikit_image(pairs, border):
    """The four means in float64."""
    inside = slice(border, -border)
    rows = []
    for pair in pairs:
        a, b = (np.asarray(image, np.float64)[inside, inside] for image in pair)
        row = []
        for x, y in ((rgb2ycbcr(a) / 255, rgb2ycbcr(b) / 255), (a, b)):
            luma = x is not a
            x, y = (x[..., 0], y[..., 0]) if luma else (x, y)
            row.append(peak_signal_noise_ratio(x, y, data_range=1))
            options = {} if luma else {"channel_axis": -1}
            options |= {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            row.append(structural_similarity(x, y, data_range=1, **options))
        rows.append(row)
    return np.mean(rows, axis=0)


def test_evaluate_sr(folder, tmp_path):
    """A checkpoint beside bicubic; the files hold the same numbers, which are scikit-image's."""
    loading.save_safetensors(models.create("edsr_small_x2", seed=2), tmp_path / "mine.safetensors")
    networks = ["edsr_small_x2", f"edsr_small_x2={tmp_path / 'mine.safetensors'}"]
    files = [f"--table={tmp_path / name}" for name in ("t.md", "t.json")]
    words = [*networks, f"--folder={folder}", *files]
    evaluate_sr.run(cli.parse("evaluate-sr", "", evaluate_sr.COMMAND, words))
    rows = json.loads((tmp_path / "t.json").read_text())
    methods = ["bicubic x2", "edsr_small_x2", "edsr_small_x2 (mine.safetensors)"]
    assert [row["method"] for row in rows] == methods
    photographs = patches.read_folder(folder)
    trained = models.create("edsr_small_x2", pretrained=True)
    for row, results in (
        (rows[0], quality.bicubic_results(2, photographs)),
        (rows[1], quality.network_results(trained, photographs)),
    ):
        expected = by_scikit_image(results, 2)
        found = [row[name] for name in quality.Quality._fields]
        # The luma and SSIM are computed in float32: 1e-4 dB, and 1e-5 in SSIM's quotients.
        np.testing.assert_allclose(found[::2], expected[::2], atol=1e-4)
        np.testing.assert_allclose(found[1::2], expected[1::2], atol=1e-5)
    assert rows[1]["psnr_y"] > rows[2]["psnr_y"] + 10  # which is random
    line = f"| Set2 (2) | bicubic x2 | {' | '.join(quality.cells(quality.Quality(*found_of(rows[0]))))} |"
    assert line in (tmp_path / "t.md").read_text()


def test_labels_of_files_with_one_name():
    """The paths as they were given where the files' names do not tell; twice the same is a mistake."""
    arguments = ["edsr_small_x2", "edsr_small_x2=a/w.npz", "edsr_small_x2=b/w.npz", "edsr_small_x2=b/v.npz"]
    assert evaluate_sr.labels(arguments) == [
        "edsr_small_x2",
        "edsr_small_x2 (a/w.npz)",
        "edsr_small_x2 (b/w.npz)",
        "edsr_small_x2 (v.npz)",
    ]
    assert evaluate_sr.labels(["edsr_x2=a/w.npz", "edsr_x3=a/w.npz"]) == [
        "edsr_x2 (w.npz)",
        "edsr_x3 (w.npz)",
    ]


def test_a_bar_in_a_name_is_no_new_column():
    row = ("a|b", 1, "net (c|d.npz)", quality.Quality(30.0, 0.9, 29.0, 0.8))
    assert "| a\\|b (1) | net (c\\|d.npz) | 30.00 |" in evaluate_sr.markdown([row])


def test_equal_images_are_written_as_json(tmp_path):
    """Of infinite PSNR, as of a white image; "inf" is what float() reads."""
    white = np.full((32, 32, 3), 255, np.uint8)
    rows = [("white", 1, "bicubic x2", quality.measure(quality.bicubic_results(2, [white]), 2))]

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    (row,) = json.loads(evaluate_sr.as_json(rows), parse_constant=refuse)
    assert float(row["psnr_y"]) == float(row["psnr_rgb"]) == np.inf
    assert row["ssim_y"] == pytest.approx(1, abs=1e-5)
    assert "| inf | 1.0000 | inf | 1.0000 |" in evaluate_sr.markdown(rows)


def test_an_infinite_psnr_in_the_log_of_a_training(tmp_path):
    log = tmp_path / "metrics.jsonl"
    for record in ({"step": 1, "psnr": float("inf"), "name": "x"}, {"step": 2, "psnr": 30.5}):
        super_resolution._append(log, record)
    super_resolution._keep_until(log, 2)  # as at a new start
    assert "Infinity" not in log.read_text()
    assert super_resolution.read_metrics(log) == [
        {"step": 1, "psnr": np.inf, "name": "x"},
        {"step": 2, "psnr": 30.5},
    ]


def found_of(row):
    return [row[name] for name in quality.Quality._fields]


@pytest.mark.parametrize(("scale", "least"), [(2, 16), (3, 18), (4, 20)])
def test_an_image_that_is_too_small_is_told_with_its_folder(tmp_path, scale, least):
    large, small = (np.full((side, 40, 3), 99, np.uint8) for side in (least, least - 1))
    quality.check_sizes([large], scale, "here")
    assert quality.measure(quality.bicubic_results(scale, [large]), scale).ssim_y == pytest.approx(
        1, rel=1e-4
    )
    with pytest.raises(InputError, match="SSIM needs 11 pixels"):
        quality.measure(quality.bicubic_results(scale, [small]), scale)
    Image.fromarray(small).save(tmp_path / "a.png")
    message = rf"{tmp_path}: an image of 40x{least - 1} pixels is too small .* at least {least}$"
    with pytest.raises(InputError, match=message):
        evaluate_sr.evaluate({"net": EDSR(1, 4, scale, rngs=nnx.Rngs(0))}, [str(tmp_path)])


@pytest.mark.parametrize(
    ("names", "tables", "message"),
    [
        ([], [], "usage: evaluate-sr"),
        (["edsr_small_x2"], ["t.csv"], r"unknown kind; choose from: \.md, \.json"),
        (["edsr_small_x2"], ["/nowhere/t.md"], "its folder does not exist"),
        (["edsr_small_x2=none.npz"], [f"{'t' * 300}.md"], "cannot write t+.md .File name too long"),
        (["squeezenet"], [], "'squeezenet' is not a super-resolution network"),
        (["edsr_baseline_x3"], [], "weights='official' takes those of its authors"),
        (["edsr_small_x2=none.npz"], [], r"none\.npz: cannot be read"),
        (["edsr_small_x2", "edsr_small_x2"], [], "edsr_small_x2 is named twice"),
        (["edsr_small_x2=a/w.npz"] * 2, [], r"edsr_small_x2=a/w\.npz is named twice"),
    ],
)
def test_evaluate_sr_bad_input(folder, names, tables, message):
    with pytest.raises(InputError, match=message):
        evaluate_sr.main(names, [str(folder)], tables)


@pytest.fixture
def small_networks(monkeypatch):
    """The names of the big networks for tiny ones."""
    for scale in (2, 3, 4):
        monkeypatch.setitem(
            REGISTRY._builders,
            f"edsr_baseline_x{scale}",
            lambda *, rngs, scale=scale: EDSR(1, 4, scale, rngs=rngs),
        )
    for name in ("srresnet_x2", "srgan_x2"):
        monkeypatch.setitem(REGISTRY._builders, name, lambda *, rngs: SRResNet(1, 4, 2, rngs=rngs))


TINY = [
    "batch_size=2",
    "patch=16",
    "steps=12",
    "warmup_steps=4",
    "log_every=1",
    "evaluate_every=50",
    "checkpoint_every=4",
]


@pytest.mark.slow
def test_train_all(folder, tmp_path, small_networks, monkeypatch):
    """All five, the second one killed in its middle and the command given again; then once more."""
    workdir, output = tmp_path / "work", tmp_path / "weights"
    options = train_options(
        minutes=["0", "0", "60", "0", "0"],
        train_folder=str(folder),
        validation_folder=str(folder),
        test_folder=[str(folder)],
        perceptual="squeezenet",
        data="noise",
        licence="CC0",
        set=TINY,
    )
    monkeypatch.setattr(train_all.train_sr.budget, "fit_steps", lambda config, records: len(records) + 5)
    train, killed = train_all.train_sr.super_resolution.train, []

    def kill(network, config, folder, report, *arguments, **options):
        def stop(record):
            if record["step"] == 6 and config.network == "edsr_baseline_x4":
                killed.append(record)
                raise KeyboardInterrupt
            report(record)

        return train(network, config, folder, stop, *arguments, **options)

    monkeypatch.setattr(train_all.train_sr.super_resolution, "train", kill)
    with pytest.raises(KeyboardInterrupt):
        train_all.main(options, workdir, output)
    assert sorted(path.name for path in output.iterdir()) == [
        "edsr_baseline_x2.md",
        "edsr_baseline_x2.safetensors",
    ]
    first = (output / "edsr_baseline_x2.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(train_all.train_sr.super_resolution, "train", train)
    train_all.main(options, workdir, output)
    names = ["edsr_baseline_x2", "edsr_baseline_x4", "edsr_baseline_x3", "srresnet_x2", "srgan_x2"]
    expected = {f"{name}{suffix}" for name in names for suffix in (".md", ".safetensors")}
    assert {path.name for path in output.iterdir()} == expected
    assert (workdir / "baseline_x2/edsr_baseline_x2.safetensors").stat().st_mtime_ns < first + 1
    for name in names:
        models.create(name, weights=output / f"{name}.safetensors")
        card = (output / f"{name}.md").read_text()
        assert f"| Set2 | {name} |" in card
        assert "noise" in card
        assert str(tmp_path) not in card
    assert "started from | edsr_baseline_x2.safetensors" in (output / "edsr_baseline_x4.md").read_text()
    assert "started from | srresnet_x2.safetensors" in (output / "srgan_x2.md").read_text()
    # x3 had minutes: its number of steps followed from its first four.
    assert json.loads((workdir / "baseline_x3/plan.json").read_text()) == {"steps": 9}
    log = (workdir / "baseline_x3/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 10))
    assert " --config.steps=9 " in (output / "edsr_baseline_x3.md").read_text()
    methods = [row["method"] for row in json.loads((workdir / "quality.json").read_text())]
    assert methods == ["bicubic x2", "bicubic x3", "bicubic x4", *names]
    # Nothing is left to do: no image is read for training.
    options.train_folder = f"/nowhere/{folder.name}"
    train_all.main(options, workdir, output)
    # What is finished, but of another configuration, is not passed off as this one.
    options.set = [*TINY, "seed=1"]
    with pytest.raises(InputError, match="baseline_x2 holds a training of another configuration: seed is 0"):
        train_all.main(options, workdir, output)


def test_the_folders_that_set_names_are_those_of_all_that_is_said(folder, tmp_path, monkeypatch):
    """They are trained on and tested with, not only in the card; and their images are hashed once."""
    hashed, given = [], []
    digest = patches.digest_of_folder
    for module in (patches, train_sr):
        monkeypatch.setattr(module, "digest_of_folder", lambda name: hashed.append(name) or digest(name))

    def train(config, workdir, photographs, images=None):
        given.append((config.network, len(photographs), images))
        workdir.mkdir(parents=True)
        for suffix in (".safetensors", ".md"):
            (workdir / f"{config.network}{suffix}").write_bytes(b"whole")

    monkeypatch.setattr(train_sr, "main", train)
    monkeypatch.setattr(train_all.evaluate_sr, "load", str)
    tested = []
    monkeypatch.setattr(
        train_all.evaluate_sr, "evaluate", lambda networks, folders: tested.extend(folders) or []
    )
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (40, 40)).save(other / "a.png")
    settings = [f"train_folder={other}", f"test_folders={folder},{other}"]
    options = train_options(networks=["baseline_x2", "srresnet_x2"], train_folder=str(folder), set=settings)
    train_all.main(options, tmp_path / "work", tmp_path / "out")
    assert given == [(name, 1, digest(str(other))) for name in ("edsr_baseline_x2", "srresnet_x2")]
    assert tested == [str(folder), str(other)]
    train_all.main(options, tmp_path / "work2", tmp_path / "out2")
    assert hashed == [str(other)] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"networks": ["small_x2"]}, "unknown network 'small_x2'; choose from: baseline_x2, "),
        ({"minutes": ["ten"]}, "minutes must be numbers, not ten"),
        ({"minutes": ["1", "2"]}, "or one for each of 1 networks, not 1,2"),
        ({"minutes": ["-1"]}, "minutes must be one number from 0 up"),
        ({"networks": ["baseline_x3"]}, "baseline_x3 starts from baseline_x2: train that before, or put its"),
        ({"set": ["batchsize=3"]}, "unknown field config.batchsize; choose from: recipe, network"),
        ({"set": ["batch_size=many"]}, "config.batch_size must be a whole number of at least 1, not 'many'"),
        ({"set": ["batch_size=0"]}, "config.batch_size must be a whole number of at least 1, not 0"),
        ({"test_folder": ["/nowhere"]}, "folder /nowhere does not exist"),
    ],
)
def test_train_all_bad_input(folder, tmp_path, changes, message):
    options = train_options(**{"networks": ["baseline_x2"], "train_folder": str(folder), **changes})
    with pytest.raises(InputError, match=message):
        train_all.main(options, tmp_path / "work", tmp_path / "weights")
    assert not (tmp_path / "work").exists()


def test_features_that_must_be_downloaded_are_asked_for_before_all_training(folder, tmp_path, monkeypatch):
    def fail(name, **options):
        raise InputError(f"cannot download {name}")

    monkeypatch.setattr(train_all.models, "create", fail)
    with pytest.raises(InputError, match="srgan_x2: cannot download vgg19; --perceptual=squeezenet needs no"):
        train_all.main(train_options(train_folder=str(folder)), tmp_path / "work", tmp_path / "weights")


def test_train_all_names_the_copy_that_it_cannot_write(folder, tmp_path):
    finished = tmp_path / "work" / "baseline_x2"
    finished.mkdir(parents=True)
    for suffix in (".safetensors", ".md"):
        (finished / f"edsr_baseline_x2{suffix}").write_bytes(b"whole")
    options = train_options(networks=["baseline_x2"], train_folder=str(folder), set=TINY)
    config = train_all.configure("baseline_x2", options, tmp_path / "work", tmp_path / "out", 20.0)
    (finished / "config.json").write_text(json.dumps(train_sr.identity(config)))
    in_the_way = tmp_path / "out" / "edsr_baseline_x2.safetensors"
    in_the_way.mkdir(parents=True)
    with pytest.raises(InputError, match=rf"cannot write {in_the_way}"):
        train_all.main(options, tmp_path / "work", tmp_path / "out")
