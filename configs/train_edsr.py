"""Training of the super-resolution networks: `--config=configs/train_edsr.py:NETWORK`.

`small_x2`, `baseline_x2`, `baseline_x3`, `baseline_x4` are EDSRs; `srresnet_x2`, `srresnet_x4` and, from the
weights of one of these, `srgan_x2`, `srgan_x4`.
"""

from ml_collections import ConfigDict


def get_config(network: str = "small_x2") -> ConfigDict:
    """The recipe for `network`; a name without `srresnet` or `srgan` is that of an EDSR."""
    config = ConfigDict()
    config.network = network if network.startswith(("srresnet", "srgan")) else f"edsr_{network}"
    config.seed = 0
    # A weights file to start from, "" for random weights.
    config.initial_weights = ""

    # Folders of high-resolution images, searched recursively; "" for no validation.
    config.train_folder = "data/sr_train"
    config.validation_folder = ""
    # For the card that goes with the weights: what these images are, and under which terms.
    config.data = "the images of train_folder"

    # EDSR's recipe: 16 patches of 48 low-resolution pixels, Adam, learning rate 1e-4 halved.
    config.loss = "l1"
    config.patch = 48
    config.batch_size = 16
    config.steps = 300_000
    config.learning_rate = 1e-4
    config.schedule = "halve"
    config.halve_every = 200_000
    config.warmup_steps = 0
    config.adam_b2 = 0.999
    config.clip_norm = 1.0
    config.ema_decay = 0.999

    config.log_every = 100
    config.evaluate_every = 1000
    config.checkpoint_every = 1000

    if network == "small_x2":
        # An hour or so on two CPU cores: smaller patches, larger steps, and a cosine.
        config.patch = 32
        config.steps = 16_000
        config.learning_rate = 1e-3
        config.schedule = "cosine"
        config.warmup_steps = 200
        config.log_every = 50
        config.evaluate_every = 250
        config.checkpoint_every = 250
    elif network.startswith("srresnet"):
        _srresnet(config, scale=int(network[-1]))
    elif network.startswith("srgan"):
        _srgan(config, scale=int(network[-1]))
    return config


def _srresnet(config: ConfigDict, scale: int) -> None:
    """Section 3.2 of Ledig et al.: squared error, patches of 96 high-resolution pixels, a constant rate."""
    config.loss = "l2"
    config.patch = 96 // scale
    config.steps = 1_000_000
    config.halve_every = config.steps


def _srgan(config: ConfigDict, scale: int) -> None:
    """The adversarial training of the same section; equation 3 has the weights."""
    _srresnet(config, scale)
    config.loss = "srgan"
    config.steps = 200_000
    config.halve_every = 100_000  # the paper divides its rate by ten there
    config.loss_weights = ConfigDict({"content": 1.0, "pixels": 0.0, "adversarial": 1e-3})
    config.discriminator_features = 64
    config.discriminator_hidden = 1024
    # VGG-19's weights are downloaded. Without a network, any installed classifier has feature maps:
    # --config.perceptual.network=squeezenet --config.perceptual.endpoint=fire4 --config.perceptual.scale=0.01
    config.perceptual = ConfigDict(
        {"network": "vgg19", "weights": "", "endpoint": "conv5_4", "scale": 1 / 12.75}
    )
