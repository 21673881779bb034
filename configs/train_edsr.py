"""Training of the super-resolution networks: `--config=configs/train_edsr.py:NETWORK[,gpu][,squeezenet]`.

`small_x2`, `baseline_x2`, `baseline_x3`, `baseline_x4` are EDSRs; `compact_x2`, `compact_x3`, `compact_x4`
the lightest networks, and `compact_24x6_x2` one of another size: 24 channels, 6 convolutions in the middle;
`srresnet_x2`, `srresnet_x4` and, from the weights of one of these, `srgan_x2`, `srgan_x4`. With `,gpu` the
recipe is for 10 to 25 minutes of one large GPU: larger batches and steps, a cosine, bfloat16. With
`,squeezenet` an SRGAN's perceptual loss takes the features of SqueezeNet, whose weights are installed,
instead of VGG-19's, which are downloaded.
"""

from ml_collections import ConfigDict

from srdef.configs import common
from srdef.errors import InputError

NETWORKS = (
    *("small_x2", "baseline_x2", "baseline_x3", "baseline_x4", "x2", "x3", "x4"),
    *("compact_x2", "compact_x3", "compact_x4"),
    *("srresnet_x2", "srresnet_x4", "srgan_x2", "srgan_x4"),
)


def network_name(text: str) -> str:
    """One of `NETWORKS`, or a compact network of another size; ValueError for another text."""
    if text not in NETWORKS:
        kind, size, scale = text.split("_")
        if kind != "compact" or f"{kind}_{scale}" not in NETWORKS:
            raise ValueError(text)
        common.pair(size)
    return text


NETWORK = common.Key("small_x2", network_name, f"{' | '.join(NETWORKS)} | compact_24x6_x2 or of another size")


def get_config(argument: str = "") -> ConfigDict:
    """The recipe for a network; a name without `compact`, `srresnet` or `srgan` is that of an EDSR.

    Raises
    ------
    InputError
        For a name that is not of one of these forms, an unknown option, or `squeezenet` without an SRGAN.
    """
    chosen = common.parse_arg(argument, network=NETWORK, gpu=False, squeezenet=False)
    network = chosen.network
    if chosen.squeezenet and not network.startswith("srgan"):
        raise InputError(f"squeezenet is for the perceptual loss of srgan_x2 and srgan_x4, not of {network}")
    config = ConfigDict()
    config.recipe = ",".join([network, *(option for option in ("gpu", "squeezenet") if chosen[option])])
    config.network = network if network.startswith(("compact", "srresnet", "srgan")) else f"edsr_{network}"
    config.network_options = ConfigDict()  # of a network of any size
    config.seed = 0
    # A weights file to start from, "" for random weights. It may be of another scale of the same network.
    config.initial_weights = ""

    # Folders of high-resolution images, searched recursively, or tfds:div2k; "" for no validation.
    config.train_folder = "data/sr_train"
    config.validation_folder = ""
    # Folders on which the card gives PSNR and SSIM.
    config.test_folders = ()
    # For the card that goes with the weights: what these images are, and under which terms.
    config.data = "the images of train_folder"
    config.licence = "terms of their own"

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
    # Of the exponential moving average of the weights, which is what is evaluated and exported; 0: none.
    config.ema_decay = 0.999

    # float32, tf32 or bf16: what the training computes in. Weights, and all evaluation, are float32.
    config.precision = "float32"
    # Where patches are cut: on the device, which then holds all photographs, or by threads of the host.
    config.crop = "device"
    # How weights are stored: float32, bf16, or auto: bf16 if it costs less than 0.01 dB on the validation.
    config.storage = "float32"
    # If not 0, `steps` is replaced by what fits into these minutes, measured on the first steps.
    config.minutes = 0.0

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
    elif network.startswith("compact"):
        _compact(config)
    elif network.startswith("srresnet"):
        _srresnet(config, scale=int(network[-1]))
    elif network.startswith("srgan"):
        _srgan(config, scale=int(network[-1]), squeezenet=chosen.squeezenet)
    if chosen.gpu:
        _gpu(config)
    return config


def _compact(config: ConfigDict) -> None:
    """A quarter of an hour or so on two CPU cores; x3 and x4, which start from x2, half of that."""
    kind, *size, scale = config.network.split("_")
    if size:
        features, convolutions = common.pair(size[0])
        config.network = kind
        config.network_options.update(features=features, convolutions=convolutions, scale=int(scale[-1]))
    config.patch = 32
    first = config.network == "compact" or config.network.endswith("x2")
    config.steps = 6000 if first else 3000
    config.learning_rate = 2e-3 if first else 1e-3
    config.schedule = "cosine"
    config.warmup_steps = 200
    config.log_every = 50
    config.evaluate_every = 500
    config.checkpoint_every = 500


def _srresnet(config: ConfigDict, scale: int) -> None:
    """Section 3.2 of Ledig et al.: squared error, patches of 96 high-resolution pixels, a constant rate."""
    config.loss = "l2"
    config.patch = 96 // scale
    config.steps = 1_000_000
    config.halve_every = config.steps


def _srgan(config: ConfigDict, scale: int, squeezenet: bool) -> None:
    """The adversarial training of the same section; equation 3 has the weights."""
    _srresnet(config, scale)
    config.loss = "srgan"
    config.steps = 200_000
    config.halve_every = 100_000  # the paper divides its rate by ten there
    config.loss_weights = ConfigDict({"content": 1.0, "pixels": 0.0, "adversarial": 1e-3})
    config.discriminator_features = 64
    config.discriminator_hidden = 1024
    config.perceptual = ConfigDict(
        {"network": "vgg19", "weights": "", "endpoint": "conv5_4", "scale": 1 / 12.75}
    )
    if squeezenet:
        config.perceptual.update({"network": "squeezenet", "endpoint": "fire4", "scale": 0.01})


def _gpu(config: ConfigDict) -> None:
    """Four times the batch and the rate of the paper, a fifth of its steps, annealed to zero."""
    config.precision = "bf16"
    config.storage = "auto"
    config.log_every = 100
    config.evaluate_every = 2000
    config.checkpoint_every = 1000
    if config.loss == "srgan":
        # Two players: the paper's batch, rate and halving, for as long as the time allows.
        config.steps = 50_000
        config.halve_every = 25_000
        return
    config.batch_size = 64
    config.learning_rate = 4e-4
    config.schedule = "cosine"
    config.warmup_steps = 500
    config.steps = 60_000
