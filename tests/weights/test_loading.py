import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import nnx

from srdef import models
from srdef.errors import InputError
from srdef.models.resnet import caffe_input, torchvision_input
from srdef.models.vgg import VGG19
from srdef.storage import files
from srdef.training import export, super_resolution
from srdef.weights import loading, readers
from srdef.weights.loading import Rule


class Small(nnx.Module):
    """One of each: convolution, normalisation, dense layer, list."""

    published_rules = (
        Rule(r"(\d+)\.conv\.weight", r"stages.\1.kernel", loading.conv_kernel),
        Rule(r"(\d+)\.conv\.bias", r"stages.\1.bias"),
        *loading.batch_norm_rules("bn", "norm"),
        Rule(r"fc\.weight", "head.kernel", loading.linear_kernel),
        Rule(r"fc\.bias", "head.bias"),
    )

    def __init__(self, *, rngs):
        self.stages = nnx.List([nnx.Conv(3, 4, (3, 3), padding="SAME", rngs=rngs)])
        self.norm = nnx.BatchNorm(4, use_running_average=True, epsilon=1e-3, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.stages[0](x))).mean((1, 2)))


class TorchSmall(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("0", torch.nn.Module())
        getattr(self, "0").conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4, eps=1e-3)
        self.fc = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(getattr(self, "0").conv(x))).mean((2, 3)))


NAMES = {
    "stages.0.kernel",
    "stages.0.bias",
    "norm.scale",
    "norm.bias",
    "norm.mean",
    "norm.var",
    "head.kernel",
    "head.bias",
}


@pytest.fixture
def network():
    return Small(rngs=nnx.Rngs(0))


@pytest.fixture
def published():
    """A PyTorch network with statistics of its own, and its state_dict as arrays."""
    torch.manual_seed(0)
    theirs = TorchSmall()
    for _ in range(3):
        theirs(torch.randn(4, 3, 5, 5) * 3 + 1)
    return theirs.eval(), {name: value.numpy() for name, value in theirs.state_dict().items()}


def test_a_pytorch_network_converted(published):
    theirs, tensors = published
    network = nnx.eval_shape(lambda: Small(rngs=nnx.Rngs(0)))
    loading.load(network, loading.convert_named(network, tensors, "file"), "file")
    images = np.random.default_rng(0).normal(size=(2, 6, 7, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
    # A few dozen additions in float32.
    np.testing.assert_allclose(network(images), expected, atol=1e-5)


def test_names(network):
    assert set(loading.flatten(network)) == NAMES


def test_saved_and_loaded(network, tmp_path):
    path = tmp_path / "small.safetensors"
    loading.save_safetensors(network, path)
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]
    other = Small(rngs=nnx.Rngs(1))
    loading.load(other, readers.read(path), str(path))
    for name, array in loading.flatten(network).items():
        np.testing.assert_array_equal(loading.flatten(other)[name], array)


def test_saving_replaces_a_file_only_when_it_is_whole(network, tmp_path, monkeypatch):
    path = tmp_path / "small.safetensors"
    path.write_bytes(b"before")

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(InputError, match=r"cannot write .*small\.safetensors \(No space left"):
        loading.save_safetensors(network, path)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["small.safetensors"]


def test_saving_into_a_folder_that_is_not_there(network, tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        loading.save_safetensors(network, tmp_path / "none" / "small.safetensors")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_other_widths_become_float32(network, dtype, tmp_path):
    narrow = {name: array.astype(dtype) for name, array in loading.flatten(network).items()}
    path = tmp_path / "small.safetensors"
    path.write_bytes(safetensors.numpy.save(narrow))
    loading.load(network, readers.read(path), "file")
    for name, array in loading.flatten(network).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, narrow[name].astype(np.float32))


def test_every_kind_of_misfit_is_listed_in_one_line(network):
    tensors = loading.flatten(network)
    before = dict(tensors)
    del tensors["norm.mean"], tensors["head.bias"]
    tensors["extra"] = np.zeros(1, np.float32)
    tensors["head.kernel"] = tensors["head.kernel"].T
    tensors["norm.var"] = np.ones(4, np.int64)
    with pytest.raises(InputError) as caught:
        loading.load(network, tensors, "a.npz")
    assert str(caught.value) == (
        "a.npz does not fit Small: missing head.bias, norm.mean; unknown extra; "
        "head.kernel has shape (2, 4), expected (4, 2); norm.var has type int64, expected float32"
    )
    for name, array in loading.flatten(network).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_published_tensor_without_a_rule_is_unknown(network, published):
    _, tensors = published
    tensors["fc.scale"] = np.zeros(1, np.float32)
    converted = loading.convert_named(network, tensors, "a.pth")
    assert set(converted) == NAMES | {"fc.scale"}
    with pytest.raises(InputError, match=r"^a\.pth does not fit Small: unknown fc\.scale$"):
        loading.load(network, converted, "a.pth")


def test_a_transform_that_does_not_fit(network, published):
    _, tensors = published
    tensors["fc.weight"] = tensors["fc.weight"].ravel()
    message = r"^a\.pth does not fit Small: fc\.weight has the unexpected shape \(8,\)$"
    with pytest.raises(InputError, match=message):
        loading.convert_named(network, tensors, "a.pth")


def test_two_tensors_of_one_name():
    tensors = {"a": np.zeros(1), "b": np.zeros(1)}
    with pytest.raises(InputError, match="two tensors would be called x; one of them is b"):
        loading.rename(tensors, [Rule("a|b", "x")])


def test_a_rule_matches_whole_names_and_the_first_one_counts():
    tensors = {"a.weight": np.zeros(1), "aa.weight": np.ones(1), "count": np.zeros(1)}
    rules = [Rule(r"a\.(\w+)", r"first.\1"), Rule(r"a*\.weight", "second"), Rule("count", None)]
    assert list(loading.rename(tensors, rules)) == ["first.weight", "second"]


def test_a_network_without_published_rules_has_its_own_layout(network):
    tensors = {"module.kernel": np.ones((4, 2), np.float32), "module.bias": np.ones(2, np.float32)}
    assert list(loading.convert_named(network.head, tensors, "a.pth")) == ["kernel", "bias"]


WRAPPED = {
    "DataParallel": "module.{}",
    "Lightning": "model.{}",
    "torch.compile": "_orig_mod.{}",
    "compiled in Lightning on many devices": "module.model._orig_mod.{}",
    "wrapped twice": "module.module.{}",
}


@pytest.mark.parametrize("pattern", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("layout", ["published", "own"])
def test_names_that_a_trainer_has_wrapped(network, published, pattern, layout):
    expected = loading.convert_named(network, published[1], "a.pth")
    tensors = published[1] if layout == "published" else expected
    wrapped = {pattern.format(name): array for name, array in tensors.items()}
    found = loading.convert_named(network, wrapped, "a.pth")
    assert set(found) == NAMES
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_count_of_an_averaged_model_is_left_out(network, published):
    """torch.optim.swa_utils.AveragedModel puts `n_averaged` beside the names that it wraps."""
    averaged = torch.optim.swa_utils.AveragedModel(published[0])
    tensors = {name: value.numpy() for name, value in averaged.state_dict().items()}
    assert "n_averaged" in tensors
    assert set(loading.convert_named(network, tensors, "a.pth")) == NAMES


class Wrapping(nnx.Module):
    """Has a part that is called like a prefix."""

    def __init__(self, *, rngs):
        self.model = nnx.Linear(4, 2, rngs=rngs)


def test_a_name_that_only_looks_wrapped():
    network = Wrapping(rngs=nnx.Rngs(0))
    assert set(loading.convert_named(network, loading.flatten(network), "a")) == {
        "model.kernel",
        "model.bias",
    }


def test_a_message_names_the_common_prefix_and_three_names_of_each_side(network):
    tensors = {f"net.{i}.\x1b[31mweight": np.zeros(1, np.float32) for i in range(5)}
    with pytest.raises(InputError) as caught:
        loading.load(network, loading.convert_named(network, tensors, "a.pth"), "a.pth")
    assert str(caught.value) == (
        "a.pth does not fit Small: every name begins with net.; "
        "missing head.bias, head.kernel, norm.bias and 5 more; "
        r"unknown net.0.\x1b[31mweight, net.1.\x1b[31mweight, net.2.\x1b[31mweight and 2 more"
    )


def test_three_shapes_are_told(network):
    tensors = {name: array[..., None] for name, array in loading.flatten(network).items()}
    with pytest.raises(InputError, match=r"^a does not fit Small: (\S+ has shape [^;]*; ){3}and 5 more of"):
        loading.load(network, tensors, "a")


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f4"), (-np.inf, "f2"), (1e300, "f8")])
def test_weights_that_are_not_finite(network, value, dtype):
    """The last one is finite in the file, and not in float32."""
    tensors = loading.flatten(network)
    before = tensors["head.kernel"]
    tensors["head.kernel"] = before.astype(dtype)
    tensors["head.kernel"][1, 1] = value
    with pytest.raises(InputError, match=r"^a: head\.kernel is NaN or infinite in 1 of 8 elements$"):
        loading.load(network, tensors, "a")
    np.testing.assert_array_equal(loading.flatten(network)["head.kernel"], before)


def test_size_in_bytes(network):
    assert loading.size_in_bytes(network) == 4 * (3 * 3 * 3 * 4 + 4 + 4 * 4 + 4 * 2 + 2)
    abstract = nnx.eval_shape(lambda: Small(rngs=nnx.Rngs(0)))
    assert loading.size_in_bytes(abstract) == loading.size_in_bytes(network)


def test_a_loaded_network_goes_through_jit(network):
    """Loading keeps the structure, so a program compiled for one network serves the other."""
    compiled = jax.jit(lambda network, x: network(x))
    x = jnp.ones((1, 4, 4, 3))
    compiled(network, x)
    abstract = nnx.eval_shape(lambda: Small(rngs=nnx.Rngs(0)))
    loading.load(abstract, loading.flatten(network), "file")
    np.testing.assert_array_equal(compiled(abstract, x), compiled(network, x))
    assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ("options", "other"),
    [({"rgb_range": 1.0}, {}), ({}, {"rgb_range": 2.0}), ({"residual_scale": 0.1}, {"residual_scale": 0.2})],
)
def test_a_file_of_other_settings_is_refused(options, other, tmp_path):
    """Its tensors fit, and what they compute would be something else."""
    made, file = {"blocks": 2, "features": 4}, tmp_path / "w.safetensors"
    network = models.create("edsr", **made, **options)
    for written in (
        lambda: loading.save_safetensors(network, file),
        lambda: export.save_weights(network, file),
    ):
        file.unlink(missing_ok=True)
        written()
        loaded = models.create("edsr", **made, **options, weights=file)
        np.testing.assert_array_equal(loading.flatten(loaded)["tail.kernel"], network.tail.kernel[...])
        name = next(iter({**options, **other}))
        standard = {"rgb_range": 255.0, "residual_scale": 1.0}
        values = rf"{options.get(name, standard[name])}, and this one has {other.get(name, standard[name])}"
        with pytest.raises(InputError, match=rf"w\.safetensors does not fit EDSR: .* {name} {values}"):
            models.create("edsr", **made, **other, weights=file)
        with pytest.raises(InputError, match=rf"w\.safetensors does not fit EDSR: .* {name} {values}"):
            super_resolution.load_initial(models.create("edsr", **made, scale=3, **other), file)
    # A file that says nothing, of an older srdef, is loaded as before.
    file.write_bytes(safetensors.numpy.save(loading.flatten(network)))
    models.create("edsr", **made, **other, weights=file)


def test_the_input_of_a_vgg_is_one_of_its_settings(tmp_path):
    network = nnx.eval_shape(lambda: VGG19(torchvision_input, rngs=nnx.Rngs(0)))
    tensors = {"a": np.zeros(1, np.float32)}
    (tmp_path / "w.safetensors").write_bytes(loading.to_bytes(network, tensors))
    loading.check_settings(network, tmp_path / "w.safetensors")
    other = nnx.eval_shape(lambda: VGG19(caffe_input, rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match="of a network with input 'torchvision', and this one has 'caffe'"):
        loading.check_settings(other, tmp_path / "w.safetensors")


@pytest.mark.parametrize("text", ["{", "3", "[1]"])
def test_damaged_settings(text, network, tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors.numpy.save(loading.flatten(network), {"srdef.settings": text}))
    with pytest.raises(InputError, match=r"w\.safetensors: the settings in it are damaged"):
        loading.check_settings(network, file)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]"])
def test_metadata_of_a_damaged_file_are_none(content, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    assert readers.metadata(tmp_path / "w.safetensors") == {}
    assert readers.metadata(tmp_path / "none.safetensors") == readers.metadata(tmp_path / "w.npz") == {}
