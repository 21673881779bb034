"""The main job: five attacks, the paper's defense and its two halves, on 20 real photographs."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """EfficientNet-Lite0 at 160 pixels; super-resolution doubles that to 320."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 10
    config.dataset = ConfigDict({"name": "imagenet_samples", "size": 160})
    config.classifier = ConfigDict({"name": "efficientnet_lite0", "pretrained": True})

    # storage: what the defended classifier gets is what an 8-bit file would hold.
    config.attacks = ConfigDict(
        {
            "FGSM-2": {"name": "fgsm", "epsilon": 2 / 255, "storage": "uint8"},
            "FGSM-5": {"name": "fgsm", "epsilon": 5 / 255, "storage": "uint8"},
            "FGSM-10": {"name": "fgsm", "epsilon": 10 / 255, "storage": "uint8"},
            "I-FGSM-16": {"name": "ifgsm", "epsilon": 16 / 255, "storage": "uint8"},
            "MI-FGSM-16": {"name": "mifgsm", "epsilon": 16 / 255, "storage": "uint8"},
        }
    )

    wavelet = {"name": "wavelet", "sigma": 0.04}
    super_resolution = {"name": "super_resolution", "network": "edsr_small_x2"}
    config.defenses = ConfigDict(
        {
            "no defense": {"name": "identity"},
            "WD": wavelet,
            "SR": super_resolution,
            "WD+SR": [wavelet, super_resolution],
        }
    )

    # A picture of the first images under one of the attacks.
    config.gallery = ConfigDict({"attack": "FGSM-2", "images": 6})
    return config
