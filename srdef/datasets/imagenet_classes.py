"""Names of the 1000 ImageNet classes, for tables and pictures."""

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def _table() -> tuple[tuple[str, str], ...]:
    text = files("srdef.datasets").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.split("\t") for line in lines]
    return tuple((wordnet_id, name) for wordnet_id, name in pairs)


def imagenet_class_names() -> tuple[str, ...]:
    """Short English names of the 1000 classes, by class index; no two are alike."""
    return tuple(name for _, name in _table())


def imagenet_wordnet_ids() -> tuple[str, ...]:
    """WordNet ids ("n01440764") of the 1000 classes, by class index; sorted."""
    return tuple(wordnet_id for wordnet_id, _ in _table())
