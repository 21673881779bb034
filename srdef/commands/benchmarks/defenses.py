"""Defenses beside the implementations people use: scikit-image, Pillow, NumPy and PyTorch.

srdef defends the whole batch in one call, compiled; scikit-image, Pillow and NumPy take one image
after the other, which is how they are called. All times are per image; what is slow gets
fewer images.
"""

import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from srdef import cores, defenses, models
from srdef.commands import cli
from srdef.commands.benchmarks import common, numpy_defenses
from srdef.commands.benchmarks.common import Settings
from srdef.defenses import pixel_deflection
from srdef.images import from_uint8, to_uint8

SIZES = (160, 299)
WEIGHT = 0.03  # of the total variation
SEED = 0


class Row(NamedTuple):
    """What is timed: ours, and the others by library, each from a batch (N, H, W, 3) to its result."""

    ours: Any  # a defense
    others: Mapping[str, Callable[[np.ndarray], np.ndarray]]
    images: int  # in the batch of srdef
    others_images: int  # of those, how many the others get
    sizes: tuple[int, ...] = SIZES


def one_by_one(function: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """`function` of each image."""
    return np.stack([function(image) for image in images])


def wavelet(size: int) -> Row:
    """BayesShrink in YCbCr, sigma 0.04."""
    from skimage.restoration import denoise_wavelet

    theirs = partial(denoise_wavelet, sigma=0.04, convert2ycbcr=True, rescale_sigma=True, channel_axis=-1)
    return Row(defenses.Wavelet(sigma=0.04), {"scikit-image": partial(one_by_one, theirs)}, 32, 32)


def jpeg(size: int) -> Row:
    """Quality 80, encoded and decoded."""

    def pillow(image: np.ndarray) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(to_uint8(image)).save(buffer, "JPEG", quality=80)
        return from_uint8(np.asarray(Image.open(buffer)))

    return Row(defenses.Jpeg(80), {"Pillow": partial(one_by_one, pillow)}, 32, 32)


def total_variation(size: int) -> Row:
    """Isotropic total variation of weight 0.03, nothing dropped; each with its own stopping rule."""
    from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

    chambolle = partial(denoise_tv_chambolle, weight=WEIGHT, channel_axis=-1)
    # Its weight is the data term's; its discretisation differs, and so does the minimum.
    bregman = partial(denoise_tv_bregman, weight=1 / WEIGHT, isotropic=True, channel_axis=-1)
    others = {
        "scikit-image, Chambolle": partial(one_by_one, chambolle),
        "scikit-image, Bregman": partial(one_by_one, bregman),
    }
    return Row(defenses.TotalVariation(weight=WEIGHT, drop_rate=0.0), others, 32, 8)


def quilting(size: int) -> Row:
    """5000 patches of the photographs themselves; the search is exact."""
    bank = defenses.bank_from_dataset({"name": "imagenet_samples", "size": size}, 5000)
    theirs = partial(numpy_defenses.quilt, patches=np.asarray(bank.patches), overlap=2)
    return Row(defenses.Quilting(bank), {"NumPy": partial(one_by_one, theirs)}, 4, 2)


def deflection(size: int) -> Row:
    """200 deflections without a map or denoising, the draws included."""

    def theirs(images: np.ndarray) -> np.ndarray:
        results = []
        for number, image in enumerate(images):
            key = jax.random.fold_in(jax.random.key(SEED), number)
            draws = draw(key, np.zeros(image.shape[:2], np.float32))
            results.append(numpy_defenses.deflect(image, [np.asarray(part) for part in draws]))
        return np.stack(results)

    ours = defenses.PixelDeflection(denoiser=None)
    draw = jax.jit(partial(pixel_deflection.draw, deflections=ours.deflections, window=ours.window))
    return Row(ours, {"NumPy": theirs}, 32, 8)


def torch_edsr(network: Any) -> Any:
    """The same network in PyTorch, with the same weights, in the memory layout it prefers."""
    import torch

    def convolution(layer: Any) -> Any:
        kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1).copy()
        module = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
        module.weight.data = torch.from_numpy(kernel)
        module.bias.data = torch.from_numpy(np.array(layer.bias[...]))  # type: ignore[union-attr]
        return module

    class Block(torch.nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.scale = block.residual_scale
            self.body = torch.nn.Sequential(
                convolution(block.conv1), torch.nn.ReLU(inplace=True), convolution(block.conv2)
            )

        def forward(self, x: Any) -> Any:
            return x + self.scale * self.body(x)

    class Edsr(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor(network.mean).reshape(1, 3, 1, 1))
            self.head = convolution(network.head)
            blocks = [Block(block) for block in network.blocks]
            self.body = torch.nn.Sequential(*blocks, convolution(network.body_end))
            tail: list[Any] = []
            for layer, factor in zip(network.upsample, network.stages, strict=True):
                tail += [convolution(layer), torch.nn.PixelShuffle(factor)]
            self.tail = torch.nn.Sequential(*tail, convolution(network.tail))

        def forward(self, images: Any) -> Any:
            head = self.head((images - self.mean) * network.rgb_range)
            return self.tail(self.body(head) + head) / network.rgb_range + self.mean

    module: Any = Edsr()
    return module.eval().to(memory_format=torch.channels_last)


def super_resolution(name: str, pretrained: bool, size: int) -> Row:
    """EDSR; PyTorch on the GPU if it has one, there also compiled."""
    import torch

    network = models.create(name, pretrained=pretrained)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(cores.usable())
    module = torch_edsr(network).to(device)

    def forward(module: Any, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            inputs = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # channels last as it lies
            return module(inputs).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()

    others = {"PyTorch": partial(forward, module)}
    if device == "cuda":
        others["PyTorch, compiled"] = partial(forward, torch.compile(module))
    return Row(defenses.SuperResolution(network), others, 8, 8, (160,))


ROWS: dict[str, Callable[[int], Row]] = {
    "BayesShrink": wavelet,
    "JPEG": jpeg,
    "TVM": total_variation,
    "quilting": quilting,
    "pixel deflection": deflection,
    "EDSR small": partial(super_resolution, "edsr_small_x2", True),
    # Its published weights are a download; the time does not depend on them.
    "EDSR-baseline": partial(super_resolution, "edsr_baseline_x2", False),
}

HEADER = ["defense", "size", "library", "images", "ms per image", "÷ srdef", "first call (s)", "difference"]


def measure(name: str, size: int, libraries: list[str], settings: Settings) -> list[dict[str, Any]]:
    """Time one row at one size; nothing if it is not meant for that size."""
    row = ROWS[name](size)
    if size not in row.sizes and not settings.size:
        return []
    samples, _ = common.sample_images(size, settings.copies)
    images = samples[np.arange(row.images * settings.copies) % len(samples)]
    some = images[: row.others_images]
    turns: dict[str, common.Run] = {
        "srdef": partial(defenses.apply, row.ours, images, key=jax.random.key(SEED))
    }
    for library, run in row.others.items():
        if library.split(",")[0] in libraries:
            turns[library] = partial(run, some)
    timings = common.take_turns(turns, settings.repeats, f"{name}, {size} px")
    ours = timings["srdef"].result
    records = []
    for library, timing in timings.items():
        count = len(images) if library == "srdef" else len(some)
        difference = np.abs(np.clip(timing.result, 0, 1) - ours[: len(timing.result)])
        records.append(
            {
                "defense": name,
                "size": size,
                "library": library,
                "images": count,
                "seconds_per_image": timing.median / count,
                "ratio": timing.median / count / (timings["srdef"].median / len(images)),
                "first_call": timing.first_call,
                "levels": None if library == "srdef" else 255 * float(difference.mean()),
            }
        )
    return records


def rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """The table's cells; the difference is the mean one from srdef's result, in levels of 255."""
    return [
        [
            r["defense"],
            str(r["size"]),
            r["library"],
            str(r["images"]),
            f"{1e3 * r['seconds_per_image']:.2f}",
            f"{r['ratio']:.2f}",
            f"{r['first_call']:.1f}",
            "" if r["levels"] is None else f"{r['levels']:.2g}/255",
        ]
        for r in records
    ]


def run(settings: Settings) -> None:
    """Time all defenses and report."""
    names = common.chosen(list(ROWS), settings.only, "defense")
    libraries = common.chosen(["scikit-image", "Pillow", "NumPy", "PyTorch"], settings.libraries, "library")
    cli.console.print(f"Defenses on {common.device()}")
    sizes = (settings.size,) if settings.size else SIZES
    records = [
        record for name in names for size in sizes for record in measure(name, size, libraries, settings)
    ]
    common.report("Defenses", HEADER, rows(records), records, settings.write)
