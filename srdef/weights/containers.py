"""What trainers wrap around the weights: dictionaries around dictionaries, prefixes before every name."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from srdef.errors import InputError

T = TypeVar("T")

# Where trainers keep the weights beside other things, the preferred one first: BasicSR's averaged and last
# ones; Lightning's, and that of most scripts; DeepSpeed's; at the end an exponential moving average, which
# is taken only where the file has nothing else. `params_ema` is first, as BasicSR's own tests take it.
NESTED = ("params_ema", "params", "state_dict", "model_state_dict", "model", "module", "ema")
# What DataParallel, Lightning and torch.compile put before every name, in any order.
PREFIXES = ("module.", "model.", "_orig_mod.")
# Beside the weights in the state_dict of torch.optim.swa_utils.AveragedModel: the number of averages.
_COUNT = "n_averaged"
_DEEPEST = 8


def open_nested(content: Any, what: str) -> Mapping[Any, Any]:
    """The innermost of the dictionaries `{"state_dict": {"model": …}}`; `NESTED` says which is preferred.

    Raises
    ------
    InputError
        If `content` is no dictionary, or they are nested too deep; `what` says what it should hold.
    """
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            raise InputError(f"holds a {type(content).__name__}, not a dictionary of {what}")
        inner = [content[name] for name in NESTED if isinstance(content.get(name), Mapping)]
        if not inner:
            return content
        content = inner[0]
    raise InputError(f"refused: dictionaries nested more than {_DEEPEST} deep")


def refuse_others(names: Sequence[str], what: str) -> None:
    """InputError if there are names of things that are not `what`."""
    if names:
        raise InputError(f"holds more than {what}: {some(names)}")


def some(names: Sequence[str]) -> str:
    """Three of the names, shortened, and how many there are beside them."""
    listed = ", ".join(name if len(name) <= 80 else f"{name[:80]}…" for name in names[:3])
    return listed if len(names) <= 3 else f"{listed} and {len(names) - 3} more"


def without_prefixes(tensors: Mapping[str, T]) -> Iterator[Mapping[str, T]]:
    """The tensors with their names as they are, then without each prefix that all names begin with."""
    yield tensors
    for _ in range(_DEEPEST):
        if _COUNT in tensors:
            tensors = {name: tensor for name, tensor in tensors.items() if name != _COUNT}
        found = [prefix for prefix in PREFIXES if tensors and all(n.startswith(prefix) for n in tensors)]
        if not found:
            return
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
        yield tensors


def common_prefix(names: Sequence[str]) -> str:
    """The longest part of names, up to a dot, that all of several names begin with; may be empty."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind(".", 0, length) + 1]
