"""The order in which Keras stores the layers of a network whose branches run in parallel.

A Keras weights file has its layers by their distance from the output, the farthest first, and layers
at one distance in the order of the branches they are in; Keras reads such a file by that order, not
by the layers' names, which are numbered as the author's session happened to make them. Here a
network's layers are a list of levels, the farthest first; a level is the list of the tensor names of
the layers at one distance. A layer without weights is an empty level.
"""

Levels = list[list[str]]

# Activation, addition, concatenation: no weights, but one step of distance.
WITHOUT_WEIGHTS: Levels = [[]]


def weighted(name: str, *, bias: bool = True) -> Levels:
    """The level of a convolution or a dense layer: kernel, then bias."""
    return [[f"{name}.kernel", f"{name}.bias"] if bias else [f"{name}.kernel"]]


def batch_norm(name: str, *, scale: bool = True) -> Levels:
    """The level of a batch normalisation: gamma, beta, moving mean, moving variance."""
    parts = ("scale", "bias", "mean", "var") if scale else ("bias", "mean", "var")
    return [[f"{name}.{part}" for part in parts]]


def in_parallel(*branches: Levels) -> Levels:
    """Branches that end in the same layer: aligned at their ends."""
    depth = max(map(len, branches))
    aligned: list[Levels] = [[[]] * (depth - len(branch)) + branch for branch in branches]
    return [[name for level in levels for name in level] for levels in zip(*aligned, strict=True)]


def names(levels: Levels) -> list[str]:
    """The names of all levels, one after the other: the order of the tensors in the file."""
    return [name for level in levels for name in level]
