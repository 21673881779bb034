"""Every registered defense, for one image: see `experiments/defense_gallery.py`."""

from typing import Any

from ml_collections import ConfigDict

from srdef.configs import paper, quickstart

SIZE = 160
# Which of the 20 sample images; the patches for quilting come from those after it.
IMAGE = 3


def bank() -> dict[str, Any]:
    """Patches of the other photographs."""
    others = {"name": "imagenet_samples", "size": SIZE, "offset": IMAGE + 1}
    return {"dataset": others, "count": 20_000}


def get_config() -> ConfigDict:
    """EfficientNet-Lite0 at 160 pixels under FGSM of 2/255."""
    config = quickstart.get_config()
    config.batch_size = 1
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": SIZE, "offset": IMAGE, "limit": 1})
    config.attacks = ConfigDict({"FGSM-2": quickstart.attacks()["FGSM-2"]})
    config.defenses = ConfigDict(
        {
            "no defense": {"name": "identity"},
            "bit depth 3": {"name": "bit_depth", "bits": 3},
            "median 3x3": {"name": "median", "size": 3},
            "non-local means": {"name": "non_local_means"},
            "JPEG 80": {"name": "jpeg", "quality": 80},
            "SHIELD": {"name": "shield"},
            "resize + pad": {"name": "resize_pad", "passes": 30},
            "TVM": {"name": "total_variation"},
            "quilting": {"name": "quilting", "bank": bank()},
            "quilting + TVM": {"name": "quilting_tvm", "bank": bank()},
            "pixel deflection": {"name": "pixel_deflection"},
            "bicubic x2": paper.interpolation("bicubic"),
            "nearest x2": paper.interpolation("nearest"),
            "bicubic down, up": paper.interpolation("bicubic", "down_up"),
            "WD": paper.WAVELET,
            "WD, VisuShrink": {**paper.WAVELET, "method": "VisuShrink"},
            "SR": paper.super_resolution(),
            "WD+SR": [paper.WAVELET, paper.super_resolution()],
            "as released": {"name": "paper_released", "network": "edsr_small_x2"},
        }
    )
    config.gallery = ConfigDict({"attack": "FGSM-2", "images": 1})
    return config
