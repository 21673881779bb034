"""What `srdef attack` is told in words: names with options, lists of them, radii, and where the data lie."""

import re
from typing import Any

from srdef import attacks, datasets
from srdef.commands import configuration
from srdef.errors import InputError
from srdef.paths import expanded


def specification(text: str, option: str) -> dict[str, Any]:
    """`{"name": NAME, **options}` of `NAME:OPTION=VALUE,OPTION=VALUE`; the name may have a colon of its own.

    Raises
    ------
    InputError
        For options that are not written NAME=VALUE.
    """
    parts = text.split(":")
    # `FILE.py:FUNCTION` and `MODULE:FUNCTION`: the part behind the colon is a name, and no option.
    own = len(parts) > 1 and parts[1] != "" and "=" not in parts[1]
    name, written = ":".join(parts[: 1 + own]), ":".join(parts[1 + own :])
    if not name or (len(parts) > 1 + own and not written):
        raise InputError(f"--{option}={text[:60]}: write NAME, or NAME:OPTION=VALUE,...")
    entry: dict[str, Any] = {"name": name}
    # A comma may be part of a value: what follows it is an option only if it looks like one.
    for pair in re.split(r",(?=\w+=)", written) if written else ():
        field, equals, value = pair.partition("=")
        if not equals or not field.isidentifier():
            raise InputError(f"--{option}: {pair[:60]!r} is no OPTION=VALUE")
        if re.search(r":\w+=", value):
            raise InputError(
                f"--{option}: {pair[:60]!r} has a colon between options; separate them by commas"
            )
        entry[field] = configuration.value(value, None, f"--{option}: {field}")
    return entry


def specifications(text: str, option: str) -> list[dict[str, Any]]:
    """The attacks of a list with commas; `pgd:steps=40,restarts=2,apgd` are two. Aliases become names."""
    entries: list[str] = []
    for part in text.split(","):
        if entries and ":" in entries[-1] and re.match(r"\w+=", part):
            entries[-1] += f",{part}"
        else:
            entries.append(part)
    made = [specification(entry, option) for entry in entries]
    resolved = [(*attacks.REGISTRY.resolve(entry["name"]), entry) for entry in made]
    return [{**given, **entry, "name": name} for name, given, entry in resolved]


def radii(text: str) -> list[float]:
    """The numbers of `2/255,8/255`."""
    found = [configuration.value(part, None, "--epsilons") for part in text.split(",")]
    for part, value in zip(text.split(","), found, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"--epsilons: {part[:60]!r} is no number; write 2/255,8/255 or 0.5")
    return [float(value) for value in found]


def data_specification(text: str) -> dict[str, Any]:
    """As `specification`; a folder and an .npz or .npy file stand for the data sets that read them."""
    path = expanded(text)
    if (path.is_file() or "=" not in text) and path.suffix in (".npz", ".npy"):
        return {"name": "arrays", "path": text}
    if text not in datasets.list_names() and path.is_dir():
        return {"name": "folder", "path": text}
    entry = specification(text, "data")
    if entry.get("crop", "") is None:  # "none" is one of its values
        entry["crop"] = "none"
    return entry
