"""The published files of small data sets, which `srdef.weights.download` fetches and verifies."""

from srdef.weights.catalog import Download

# Sizes and hashes as TensorFlow Datasets has them; the MD5 that the authors give for CIFAR are those of the
# same files.
_TORONTO = "https://www.cs.toronto.edu/~kriz"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"


def _download(name: str, url: str, size: int, sha256: str, origin: str) -> Download:
    return Download(name, "", url, f"sha256:{sha256}", size, "not stated", origin, kind="data set")


CIFAR = {
    "cifar10": _download(
        "cifar10",
        f"{_TORONTO}/cifar-10-binary.tar.gz",
        170_052_171,
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
    "cifar100": _download(
        "cifar100",
        f"{_TORONTO}/cifar-100-binary.tar.gz",
        168_513_733,
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    ),
}

MNIST = {
    file: _download("mnist", f"{_MNIST}/{file}.gz", size, sha256, "LeCun, Cortes, Burges 1998")
    for file, size, sha256 in (
        (
            "train-images-idx3-ubyte",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        (
            "train-labels-idx1-ubyte",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        (
            "t10k-images-idx3-ubyte",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        (
            "t10k-labels-idx1-ubyte",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
}
