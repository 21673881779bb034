"""Training of the super-resolution networks: `--config=configs/train_edsr.py:NETWORK`."""

from ml_collections import ConfigDict


def get_config(network: str = "small_x2") -> ConfigDict:
    """The recipe for `edsr_<network>` (small_x2, baseline_x2, baseline_x3, baseline_x4)."""
    config = ConfigDict()
    config.network = f"edsr_{network}"
    config.seed = 0

    # Folders of high-resolution images, searched recursively; "" for no validation.
    config.train_folder = "data/sr_train"
    config.validation_folder = ""
    # For the card that goes with the weights: what these images are, and under which terms.
    config.data = "the images of train_folder"

    # EDSR's recipe: 16 patches of 48 low-resolution pixels, Adam, learning rate 1e-4 halved.
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
    return config
