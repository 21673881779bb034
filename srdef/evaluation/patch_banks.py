"""What the patches of a defense by quilting may be made of."""

from typing import Any

from srdef.errors import InputError
from srdef.paths import expanded


def _place(dataset: dict[str, Any]) -> tuple[Any, Any]:
    """What a data set is called, and the one folder or file that its path leads to."""
    path = dataset.get("path") or None
    return dataset.get("name"), path and expanded(path).resolve()


def refuse_own_patches(label: str, specification: Any, dataset: dict[str, Any]) -> None:
    """InputError if a patch bank is made of images that are evaluated: it would hold their clean patches."""

    def rows(source: dict[str, Any]) -> tuple[int, float]:
        first, limit, stride = source.get("offset", 0), source.get("limit"), source.get("stride", 1)
        return stride * first, float("inf") if limit is None else stride * (first + limit)

    for step in specification if isinstance(specification, list) else [specification]:
        source = step.get("bank") if isinstance(step, dict) else None
        source = source.get("dataset") if isinstance(source, dict) else None
        if not isinstance(source, dict) or _place(source) != _place(dataset):
            continue
        (first, end), (other_first, other_end) = rows(source), rows(dataset)
        if max(first, other_first) < min(end, other_end):
            raise InputError(
                f"defense {label!r}: its patch bank would be made of the images that are evaluated, and the "
                "nearest patch of an image its own clean one; take another data set, offset or limit"
            )
