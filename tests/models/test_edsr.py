import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from srdef import models
from srdef.errors import InputError
from srdef.models.edsr import EDSR, pixel_shuffle
from srdef.models.registry import without_weights
from srdef.training import patches, quality
from srdef.weights import loading


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_equals_torch(factor, rng):
    x = rng.random((2, 5, 4, 3 * factor**2), np.float32)
    expected = torch.nn.functional.pixel_shuffle(torch.tensor(x).permute(0, 3, 1, 2), factor)
    np.testing.assert_array_equal(pixel_shuffle(jnp.asarray(x), factor), expected.permute(0, 2, 3, 1).numpy())


class TorchEDSR(torch.nn.Module):
    """The layers of the official `src/model/edsr.py` in the order of its forward pass, on 0 to 255."""

    def __init__(self, network: EDSR, residual_scale: float):
        super().__init__()
        self.network, self.residual_scale = network, residual_scale

    def conv(self, layer: nnx.Conv, x: torch.Tensor) -> torch.Tensor:
        kernel = torch.tensor(np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1))
        return torch.nn.functional.conv2d(x, kernel, torch.tensor(np.asarray(layer.bias[...])), padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040]).reshape(1, 3, 1, 1)
        head = self.conv(self.network.head, x - mean)
        body = head
        for block in self.network.blocks:
            inner = self.conv(block.conv2, torch.relu(self.conv(block.conv1, body)))
            body = body + inner * self.residual_scale
        x = self.conv(self.network.body_end, body) + head
        for layer, factor in zip(self.network.upsample, self.network.stages, strict=True):
            x = torch.nn.functional.pixel_shuffle(self.conv(layer, x), factor)
        return self.conv(self.network.tail, x) + mean


@pytest.mark.parametrize(("scale", "residual_scale"), [(2, 1.0), (3, 0.1), (4, 0.1)])
def test_edsr_equals_torch(scale, residual_scale, rng):
    network = models.create("edsr", blocks=3, features=8, scale=scale, residual_scale=residual_scale, seed=1)
    # Biases start at zero; give them values so that they are tested too.
    for layer in (network.head, network.blocks[1].conv1, *network.upsample, network.tail):
        layer.bias[...] = jnp.asarray(rng.normal(size=layer.bias.shape), jnp.float32)
    x = rng.random((2, 9, 6, 3), np.float32)
    with torch.no_grad():
        expected = TorchEDSR(network, residual_scale)(255 * torch.tensor(x).permute(0, 3, 1, 2)) / 255
    actual = jax.jit(lambda network, x: network(x))(network, x)
    assert actual.shape == (2, 9 * scale, 6 * scale, 3)
    np.testing.assert_allclose(actual, expected.permute(0, 2, 3, 1).numpy(), atol=2e-6)


def convolution(inputs, outputs):
    return torch.nn.Conv2d(inputs, outputs, 3, padding=1)


class OfficialMean(torch.nn.Conv2d):
    """The mean of DIV2K taken off or put on again, as a 1x1 convolution."""

    def __init__(self, sign):
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).reshape(3, 3, 1, 1)
        self.bias.data = sign * 255 * torch.tensor([0.4488, 0.4371, 0.4040])


class OfficialBlock(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.body = torch.nn.Sequential(
            convolution(features, features), torch.nn.ReLU(), convolution(features, features)
        )

    def forward(self, x):
        return x + self.body(x)


class OfficialEDSR(torch.nn.Module):
    """The baseline with the modules, and so the names of tensors, of the official code."""

    def __init__(self, scale, blocks=16, features=64):
        super().__init__()
        self.sub_mean, self.add_mean = OfficialMean(-1), OfficialMean(1)
        self.head = torch.nn.Sequential(convolution(3, features))
        body = [*(OfficialBlock(features) for _ in range(blocks)), convolution(features, features)]
        self.body = torch.nn.Sequential(*body)
        stages = []
        for r in (2, 2) if scale == 4 else (scale,):
            stages += [convolution(features, features * r * r), torch.nn.PixelShuffle(r)]
        self.tail = torch.nn.Sequential(torch.nn.Sequential(*stages), convolution(features, 3))

    def forward(self, x):
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.body(x) + x))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("legacy", [False, True])
def test_an_official_file(tmp_path, scale, legacy, rng):
    """The published files are of 2018: the format before PyTorch 1.6."""
    torch.manual_seed(scale)
    reference = OfficialEDSR(scale)
    path = tmp_path / f"edsr_baseline_x{scale}.pt"
    torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    network = models.create(f"edsr_baseline_x{scale}", weights=path)
    x = rng.random((1, 12, 9, 3), np.float32)
    with torch.no_grad():
        expected = reference(255 * torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1) / 255
    actual = jax.jit(lambda network, x: network(x))(network, x)
    assert actual.shape == (1, 12 * scale, 9 * scale, 3)
    np.testing.assert_allclose(actual, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_for_another_range_of_levels(tmp_path, prefix):
    """Trained by the official code with --rgb_range 1: of the same names and shapes, and of no use at 255."""
    reference, path = OfficialEDSR(2, blocks=1, features=4), tmp_path / "own.pt"
    for mean in (reference.sub_mean, reference.add_mean):
        mean.bias.data /= 255
    torch.save({prefix + name: tensor.half() for name, tensor in reference.state_dict().items()}, path)
    message = r"own\.pt does not fit EDSR: sub_mean\.bias is -0\.44.*, and -114\.4, .* with rgb_range=255"
    with pytest.raises(InputError, match=message):
        models.create("edsr", blocks=1, features=4, weights=path)
    assert models.create("edsr", blocks=1, features=4, rgb_range=1.0, weights=path).rgb_range == 1


def test_a_file_of_another_scale(tmp_path):
    torch.save(OfficialEDSR(4).state_dict(), tmp_path / "x4.pt")
    with pytest.raises(InputError, match=r"x4\.pt does not fit EDSR: unknown upsample\.1"):
        models.create("edsr_baseline_x2", weights=tmp_path / "x4.pt")


@pytest.mark.parametrize(
    ("name", "parameters"),
    # Of the official models (their table of pre-trained models gives 1.37 M, 1.55 M, 1.52 M, 40.7 M, ...).
    [
        ("edsr_baseline_x2", 1_369_859),
        ("edsr_baseline_x3", 1_554_499),
        ("edsr_baseline_x4", 1_517_571),
        ("edsr_x2", 40_729_603),
        ("edsr_x3", 43_680_003),
        ("edsr_x4", 43_089_923),
    ],
)
def test_named_configurations_have_the_official_size(name, parameters):
    network = without_weights(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) == parameters
    assert network.scale == int(name[-1])


@pytest.mark.parametrize("options", [{"scale": 5}, {"blocks": 0}])
def test_impossible_sizes(options):
    with pytest.raises(InputError, match=next(iter(options)).rstrip("s")):
        models.create("edsr", **options)


def load_published(path) -> EDSR:
    """The 8-block network of krasserm/super-resolution: block-major shuffle, `(x - mean) · 2`."""
    with np.load(path) as file:
        tensors = dict(file)
    order = np.arange(256).reshape(2, 2, 64).transpose(2, 0, 1).ravel()
    for part in ("kernel", "bias"):
        tensors[f"upsample.0.{part}"] = tensors.pop(f"upsample.{part}")[..., order]
    network = models.create("edsr", blocks=8, features=64, rgb_range=2.0)
    loading.load(network, tensors, str(path))
    return network


@pytest.mark.slow
def test_a_published_network_reaches_its_published_psnr(sr_weights, sr_test):
    """Set5 at scale 2: 37.81 dB (Y, border 2, 8-bit low resolution); bicubic 33.68."""
    photographs = patches.read_folder(sr_test / "set5")
    assert quality.evaluate_psnr(load_published(sr_weights), photographs) == pytest.approx(37.81, abs=0.02)


@pytest.mark.slow
def test_the_trained_baseline_reaches_what_its_card_says(sr_test):
    """Set5 at scale 2, as `srdef/weights/edsr_baseline_x2.md` has it."""
    network = models.create("edsr_baseline_x2", pretrained=True)
    assert quality.evaluate_psnr(network, patches.read_folder(sr_test / "set5")) == pytest.approx(
        37.72, abs=0.02
    )


def test_bicubic_reaches_its_known_psnr(sr_test):
    """Set5 at scale 2 in the literature's table: 33.66 to 33.68 dB."""
    photographs = patches.read_folder(sr_test / "set5")
    assert quality.bicubic_psnr(photographs, 2) == pytest.approx(33.68, abs=0.02)
