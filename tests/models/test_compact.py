"""The compact network beside spandrel's copy of the authors' code, through files as they write them."""

import jax
import numpy as np
import pytest
import torch
from spandrel_reference import SRVGGNetCompact

from srdef import datasets, models
from srdef.errors import InputError
from srdef.images import to_uint8
from srdef.models.cost import parameter_count
from srdef.training import quality
from srdef.training.patches import read_folder
from srdef.weights import loading


@jax.jit
def run(network, images):
    return network(images)


def published(scale, convolutions=3, features=6, seed=0):
    """The authors' network with random weights: no bias is zero and no slope that of the start."""
    torch.manual_seed(seed)
    network = SRVGGNetCompact(num_feat=features, num_conv=convolutions, upscale=scale)
    for name, parameter in network.named_parameters():
        slope = parameter.ndim == 1 and name.endswith("weight")
        with torch.no_grad():
            parameter.uniform_(0.05, 0.6) if slope else parameter.normal_(0, 0.1)
    return network.eval()


WRAPPED = {
    "bare": lambda state, other: state,
    "averaged": lambda state, other: {"params": other, "params_ema": state},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_equals_the_authors(tmp_path, scale, wrap, rng):
    network = published(scale)
    path = tmp_path / "compact.pth"
    torch.save(wrap(network.state_dict(), published(scale, seed=1).state_dict()), path)
    loaded = models.create("compact", weights=path, convolutions=3, features=6, scale=scale)
    images = rng.random((2, 9, 6, 3), np.float32)
    with torch.no_grad():
        expected = network(torch.tensor(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    found = run(loaded, images)
    assert found.shape == (2, 9 * scale, 6 * scale, 3)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.abs(expected - images.repeat(scale, axis=1).repeat(scale, axis=2)).max() > 0.1


@pytest.mark.parametrize(("convolutions", "features", "scale"), [(16, 64, 4), (32, 64, 4), (5, 28, 2)])
def test_number_of_parameters(convolutions, features, scale):
    """Also counted by hand: 3x3 convolutions with biases, and a slope for each channel."""
    options = {"convolutions": convolutions, "features": features, "scale": scale}
    network = models.create("compact", **options)
    by_hand = (
        (27 * features + 2 * features)
        + convolutions * (9 * features**2 + 2 * features)
        + (9 * features + 1) * 3 * scale**2
    )
    assert parameter_count(network) == by_hand
    theirs = SRVGGNetCompact(num_feat=features, num_conv=convolutions, upscale=scale)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == by_hand


def test_a_file_of_another_size(tmp_path):
    path = tmp_path / "compact.pth"
    torch.save(published(2).state_dict(), path)
    for options, message in (
        ({"convolutions": 4, "features": 6, "scale": 2}, "does not fit Compact"),
        ({"convolutions": 2, "features": 6, "scale": 2}, "does not fit Compact"),
        ({"convolutions": 3, "features": 8, "scale": 2}, "does not fit Compact: .*shape"),
        ({"convolutions": 3, "features": 6, "scale": 4}, r"does not fit Compact: .*upsample\.\w+ has shape"),
    ):
        with pytest.raises(InputError, match=rf"compact\.pth {message}"):
            models.create("compact", weights=path, **options)


def test_weights_in_our_own_layout(tmp_path):
    network = models.create("compact", convolutions=2, features=4, scale=3, seed=5)
    loading.save_safetensors(network, tmp_path / "w.safetensors")
    again = models.create("compact", weights=tmp_path / "w.safetensors", convolutions=2, features=4, scale=3)
    for name, array in loading.flatten(network).items():
        np.testing.assert_array_equal(loading.flatten(again)[name], array)


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (5, 3)])
def test_any_image(size, rng):
    network = models.create("compact", convolutions=1, features=4, scale=2)
    images = rng.random((1, *size, 3), np.float32)
    found = run(network, images)
    assert found.shape == (1, 2 * size[0], 2 * size[1], 3)
    assert bool(np.isfinite(found).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1}, "scale of a compact network must be 2, 3 or 4, not 1"),
        ({"scale": 5}, "scale of a compact network must be 2, 3 or 4, not 5"),
        ({"convolutions": 0}, "at least one of its convolutions and features, not 0 and 64"),
        ({"features": 0}, "at least one of its convolutions and features, not 16 and 0"),
    ],
)
def test_impossible_sizes(options, message):
    with pytest.raises(InputError, match=message):
        models.create("compact", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "psnr"), [("compact_x2", 37.03), ("compact_x3", 33.06), ("compact_x4", 30.85)]
)
def test_the_trained_networks_reach_what_their_cards_say(name, psnr, sr_test):
    photographs = read_folder(sr_test / "set5")
    network = models.create(name, pretrained=True)
    assert quality.evaluate_psnr(network, photographs) == pytest.approx(psnr, abs=0.02)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_trained_networks_beat_bicubic_interpolation(scale):
    images, _ = datasets.load("imagenet_samples", size=96, limit=2)
    photographs = list(to_uint8(images))
    network = models.create(f"compact_x{scale}", pretrained=True)
    gain = quality.evaluate_psnr(network, photographs) - quality.bicubic_psnr(photographs, scale)
    assert gain > 0.5
