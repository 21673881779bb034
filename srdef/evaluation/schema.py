"""What a configuration may hold: every field's type, range and meaning, checked before anything is made.

The options of attacks, defenses, networks and data sets are those of their builders; their types are read
from the builders' annotations. The texts of the fields are what `--help` prints.
"""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Literal, Union, get_args, get_origin

from srdef import attacks, datasets, defenses, models
from srdef.errors import InputError
from srdef.registry import Registry

Check = Callable[[Any, str], None]

# What JAX's keys and NumPy's arrays can hold.
LARGEST = 2**63 - 1
DEEPEST = 16
LONGEST_TEXT = 4096


@dataclass(frozen=True)
class Field:
    """One field of a configuration.

    Attributes
    ----------
    text : str
        What it means, in one sentence without a full stop.
    check : callable
        Takes a value and where it was found; InputError if it is none that the field may have.
    optional : bool
        Whether it may be left out.
    fields : mapping
        The fields inside, of a section.
    """

    text: str
    check: Check
    optional: bool = False
    fields: Mapping[str, "Field"] | None = None


def brief(value: Any) -> str:
    """The repr of a value, shortened to what fits into a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer with more digits than Python writes
        text = "a number of many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(where: str, wanted: str, value: Any) -> typing.NoReturn:
    raise InputError(f"{where} must be {wanted}, not {brief(value)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def whole(text: str, low: int = 1, high: int = LARGEST, optional: bool = False) -> Field:
    """A whole number in [low, high]."""
    wanted = f"a whole number of at least {low}" + (f" and at most {high}" if high < LARGEST else "")

    def check(value: Any, where: str) -> None:
        if not (_is_whole(value) and low <= value <= high):
            _refuse(where, wanted, value)

    return Field(text, check, optional)


def number(
    text: str, low: float = 0.0, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Field:
    """A number in [low, high]; `above`, `below`: without these ends."""
    wanted = f"a number {'above' if above else 'of at least'} {low:g}"
    if high < math.inf:
        wanted += f" and {'below' if below else 'at most'} {high:g}"

    def check(value: Any, where: str) -> None:
        good = _is_number(value) and (low < value if above else low <= value)
        if not (good and (value < high if below else value <= high)):
            _refuse(where, wanted, value)

    return Field(text, check)


def word(text: str, *choices: str, optional: bool = False) -> Field:
    """A string, or one of `choices`."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str):
            _refuse(where, "a string", value)
        if choices and value not in choices:
            raise InputError(f"{where} is {brief(value)}; choose from: {', '.join(choices)}")

    return Field(text, check, optional)


def items(text: str, each: Field, least: int = 0, most: int | None = None, optional: bool = False) -> Field:
    """A list of values that `each` checks."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list | tuple) or len(value) < least:
            _refuse(where, f"a list of at least {least}" if least else "a list", value)
        if most is not None and len(value) > most:
            _refuse(where, f"a list of at most {most}", value)
        for index, item in enumerate(value):
            each.check(item, f"{where}[{index}]")

    return Field(text, check, optional)


def rising(text: str) -> Field:
    """A list of positive ε, each larger than the one before."""
    each = number("", 0, above=True)

    def check(value: Any, where: str) -> None:
        items("", each, least=1).check(value, where)
        if any(a >= b for a, b in pairwise(value)):
            raise InputError(f"{where} must be positive and rising, not {brief(list(value))}")

    return Field(text, check)


def section(text: str, fields: Mapping[str, Field], optional: bool = False) -> Field:
    """A dictionary of exactly these fields."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(where, f"a dictionary with the fields {', '.join(fields)}", value)
        check_fields(value, fields, where)

    return Field(text, check, optional, fields)


def check_fields(value: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> None:
    """InputError for a field that is unknown or missing, or has a value that it may not have."""
    for name in value:
        if name not in fields:
            raise InputError(f"unknown field {where}.{_short(name)}; choose from: {', '.join(fields)}")
    for name, field in fields.items():
        if name in value:
            field.check(value[name], f"{where}.{name}")
        elif not field.optional:
            raise InputError(f"field {where}.{name} is missing")


def labelled(text: str, each: Field, least: int = 1) -> Field:
    """A dictionary of labels of the user's own."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or len(value) < least:
            _refuse(where, "a dictionary of at least one entry" if least else "a dictionary", value)
        for label, entry in value.items():
            if not label.isprintable() or not label.strip():
                raise InputError(f"{where}: a label must be printable, not {brief(label)}")
            each.check(entry, f'{where}["{_short(label)}"]')

    return Field(text, check)


def either(text: str, first: Field, second: Field, decide: Callable[[Any], bool]) -> Field:
    """`first` where `decide` says so of the value, `second` otherwise."""
    return Field(text, lambda value, where: (first if decide(value) else second).check(value, where))


def named(
    text: str,
    registry: Registry,
    extra: Mapping[str, Field],
    given: tuple[str, ...] = (),
    optional: bool = False,
) -> Field:
    """`{"name": NAME, **options}` of something registered.

    Parameters
    ----------
    registry : Registry
        Where the names are.
    extra : mapping
        Fields beside the builder's options.
    given : tuple of str
        Options of the builder that are not the configuration's to give.
    """

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            _refuse(where, "a dictionary with a `name`", value)
        builder = registry.builder(value["name"])
        parameters = {name: hint for name, hint in _parameters(builder).items() if name not in given}
        anything = parameters.pop(_rest(builder), None) is not None
        for option, chosen in value.items():
            if option == "name":
                continue
            if option in extra:
                extra[option].check(chosen, f"{where}.{option}")
            elif option in parameters:
                check_annotated(parameters[option], chosen, f"{where}.{option}")
            elif not anything:
                known = ", ".join([*parameters, *extra]) or "none"
                raise InputError(
                    f"{where}: {registry.kind} {value['name']!r} has no option {_short(option)!r}; "
                    f"its options are: {known}"
                )
        for option, field in extra.items():
            if option not in value and not field.optional:
                raise InputError(f"field {where}.{option} is missing")

    return Field(text, check, optional)


def keeps(registry: Registry, extra: Mapping[str, Field], name: str) -> set[str]:
    """The fields that an entry may have beside its name once it is called `name`."""
    known = {*_parameters(registry.builder(name)), *extra}
    # A model of the user's own has weights of its own.
    own = registry is models.REGISTRY and ":" in name
    return known - ({"pretrained", "weights"} - {*_parameters(registry.builder(name))} if own else set())


@cache
def _parameters(builder: Any) -> dict[str, Any]:
    """The parameters of a builder with their annotations, `Any` where it says nothing that can be read."""
    try:
        hints = typing.get_type_hints(builder)
    except (NameError, TypeError, AttributeError):
        hints = {}
    return {name: hints.get(name, Any) for name in inspect.signature(builder).parameters}


def _rest(builder: Any) -> str:
    """What a builder calls its `**options`, which take any; "" for a builder without."""
    kinds = inspect.signature(builder).parameters.items()
    return next((name for name, parameter in kinds if parameter.kind is parameter.VAR_KEYWORD), "")


def check_annotated(annotation: Any, value: Any, where: str) -> None:
    """InputError if plain data cannot be of an annotated type; other types are let through."""
    if not _fits(annotation, value):
        _refuse(where, _words(annotation), value)


# What an annotation wants of plain data: who fits, in words.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "true or false"),
    int: (_is_whole, "a whole number"),
    float: (_is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a string"),
    type(None): (lambda value: value is None, "none"),
}


def _kind(annotation: Any) -> Any:
    """`annotation` as one of `_KINDS`, `list`, `dict`, or None for what plain data cannot say."""
    origin = get_origin(annotation) or annotation
    if origin in _KINDS:
        return origin
    if isinstance(origin, type):
        if issubclass(origin, PurePath):
            return str
        if issubclass(origin, list | tuple):
            return list
        if issubclass(origin, Mapping):
            return dict
    return None


def _fits(annotation: Any, value: Any) -> bool:
    origin = get_origin(annotation)
    if annotation is None:
        return value is None
    if origin in (Union, types.UnionType):
        # Arrays and objects stand there for callers in Python; a configuration gives one of the others.
        plain = [part for part in get_args(annotation) if _kind(part) or get_origin(part) is Literal]
        return not plain or any(_fits(part, value) for part in plain)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(annotation))
    kind = _kind(annotation)
    if kind is list:
        parts = get_args(annotation)
        good = isinstance(value, list | tuple)
        if good and len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(parts[0], item) for item in value)
        if good and origin is tuple and parts:
            return len(parts) == len(value) and all(map(_fits, parts, value))
        return good and all(_fits(parts[0], item) for item in value) if parts else good
    if kind is dict:
        return isinstance(value, dict)
    return _KINDS[kind][0](value) if kind else True


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(part) for part in get_args(annotation) if _words(part)))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(annotation)))}"
    kind = _kind(annotation)
    if kind in _KINDS:
        return _KINDS[kind][1]
    return {list: "a list of values of its kind", dict: "a dictionary"}.get(kind, "")


def _short(name: Any) -> str:
    """A name that a user gave, for a message."""
    text = str(name)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_plain(value: Any, where: str = "config", depth: int = 0) -> None:
    """InputError for what JSON cannot hold, numbers not finite or beyond 64 bits, and endless texts."""
    if depth > DEEPEST:
        raise InputError(f"{where[:60]}... is nested too deeply")
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise InputError(f"{where}: names must be strings, not {brief(name)}")
            check_plain(item, f"{where}.{_short(name)}", depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{where}[{index}]", depth + 1)
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise InputError(f"{where} must be at most {LONGEST_TEXT} characters, not {len(value)}")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(f"{where} holds a character that no text has")
    elif isinstance(value, float):
        if not math.isfinite(value):
            _refuse(where, "a finite number", value)
    elif _is_whole(value):
        if abs(value) > LARGEST:
            _refuse(where, "a number within 64 bits", value)
    elif value is not None and not isinstance(value, bool):
        _refuse(where, "a number, a string, a list or a dictionary", value)


# --- the fields ---

DATASET = {
    "size": Field(
        "height and width of the images in pixels; default: as they are",
        lambda value, where: None if value is None else whole("", high=16384).check(value, where),
        optional=True,
    ),
    "crop": Field(
        "center: the classifiers' evaluation crop; none: the whole image",
        partial(check_annotated, Literal["center", "none", None]),
        optional=True,
    ),
    "offset": whole("leave out the first so many images", low=0, optional=True),
    "limit": Field("take at most so many images", partial(check_annotated, int | None), optional=True),
    "selection": Field(
        "file with a list of images, from select-images", partial(check_annotated, str | None), optional=True
    ),
}
MODEL = {
    "pretrained": Field("with its trained weights", partial(check_annotated, bool), optional=True),
    "weights": Field(
        "a weights file, or the name of published weights",
        partial(check_annotated, str | None),
        optional=True,
    ),
    "seed": whole("of random weights", low=0, optional=True),
}
_PAPER = word("what the paper calls it, where its label is another", optional=True)
# What an attack, and a defense, may say beside its options.
BESIDE_ATTACK = {
    "paper": _PAPER,
    "storage": word(
        "what is defended and counted: the image as computed, or rounded to 8 bits",
        "float32",
        "uint8",
        optional=True,
    ),
}
BESIDE_DEFENSE = {
    "paper": _PAPER,
    "passes": whole("draws of a random defense that are averaged", high=10_000, optional=True),
}


def _dataset() -> Field:
    return named("where the images come from", datasets.REGISTRY, DATASET)


def _model(text: str) -> Field:
    return named(text, models.REGISTRY, MODEL, given=("rngs",))


_ATTACK = named("", attacks.REGISTRY, BESIDE_ATTACK)
_STEP = named("", defenses.REGISTRY, {})
_STEPS = items("", _STEP, least=1)
_ONE_DEFENSE = named("", defenses.REGISTRY, BESIDE_DEFENSE)
_DEFENSE = either("", _STEPS, _ONE_DEFENSE, lambda value: isinstance(value, list | tuple))
# A row of the table: a list of steps stands under `defense` where something is said beside it.
_ROW = either(
    "",
    section("", {"defense": _STEPS, **BESIDE_DEFENSE}),
    _DEFENSE,
    lambda value: isinstance(value, dict) and "defense" in value,
)
# Adaptive attacks may differentiate another defense than the one that protects.
_PROTECTED = either(
    "",
    section("", {"defense": _DEFENSE, "surrogate": _DEFENSE}),
    _DEFENSE,
    lambda value: isinstance(value, dict) and "defense" in value,
)

SEED = whole("everything random is drawn from it", low=0)
BATCH_SIZE = whole("images in a batch, shared by all devices")

SHARED: dict[str, Field] = {
    "seed": SEED,
    "batch_size": BATCH_SIZE,
    "dataset": _dataset(),
    "classifier": _model("the classifier that is attacked"),
    "attacks": labelled("the columns of the table: attacks by label", _ATTACK),
    "defenses": labelled("the rows of the table: a defense, or a list of defenses, by label", _ROW),
}

EVALUATION: dict[str, Field] = {
    **SHARED,
    "gallery": section(
        "the picture of the first images, before and after",
        {"attack": word("label of the attack"), "images": whole("how many; 0: no picture", low=0)},
        optional=True,
    ),
    "paper": Field(
        "the paper's table whose numbers stand beside ours: table, classifier",
        partial(check_annotated, dict[str, Any]),
        optional=True,
    ),
}

_THREAT = section(
    "",
    {
        "knows": word(
            "what the attacker knows",
            *("classifier", "other classifier", "identity", "gradient", "expectation", "scores"),
        ),
        "attack": named("the attack, without ε", attacks.REGISTRY, {}, given=("epsilon",)),
        "draws": whole(
            "draws averaged in a step, for `expectation` and `scores`", high=100_000, optional=True
        ),
        "epsilons": items(
            "those of `epsilons` at which it attacks", number("", 0, above=True), optional=True
        ),
    },
)

ADAPTIVE: dict[str, Field] = {
    "seed": SEED,
    "batch_size": BATCH_SIZE,
    "dataset": _dataset(),
    "classifier": _model("the classifier that is attacked"),
    "other_classifier": _model("the one that an attacker by transfer has instead"),
    "epsilons": rising("the budgets ε, in the unit of images in [0, 1] and the norm of the attacks"),
    "final_draws": whole("fresh draws that judge a random defense", low=2, high=1_000_000),
    "threats": labelled("the attackers by label: what they know, and their attack", _THREAT),
    "columns": items("which of the threats, in this order; empty: all", word("")),
    "defenses": labelled(
        "the defenses by label, as in other experiments, or {defense: ..., surrogate: ...}", _PROTECTED
    ),
    "rows": items("which of the defenses, in this order; empty: all", word("")),
    "checks": section(
        "the self-checks",
        {
            "epsilon": number("ε at which they attack", 0, above=True),
            "images": whole("how many images"),
            "steps": whole("steps of their attacks"),
            "queries": whole("queries of their attack without gradients"),
            "draws": whole("draws averaged of a random defense"),
            "effort": whole("how many times more steps the longer attack has"),
        },
    ),
}

MANIFOLD: dict[str, Field] = {
    **SHARED,
    "manifold": section(
        "the detector",
        {
            "test_share": number("share of the images that are tested with", 0, 1, above=True, below=True),
            "blocks": whole("the last blocks of the classifier, which are trained too"),
            "hidden": whole("units of the new layer", high=1_000_000),
            "dropout": number(
                "share of its units that are left out in training", 0, 1, above=True, below=True
            ),
            "learning_rate": number("of the new head", above=True),
            "top_factor": number("times the learning rate: that of the pre-trained blocks", above=True),
            "pairs_per_batch": whole("pairs of a clean and an adversarial image in a batch", high=1_000_000),
            "steps": whole("of training"),
            "evaluate_every": whole("steps between two looks at the test images"),
        },
    ),
}

_GAINS = items(
    "factors by which differences are shown", number("", above=True), least=2, most=2, optional=True
)

FIGURES: dict[str, Field] = {
    "figure": word("which", "figure1", "figure3", "figure4", "figure5", "figure6", "spectra"),
    **SHARED,
    "images": whole("how many images", optional=True),
    "image": whole("which of the images that are classified correctly", low=0, optional=True),
    "detector": word(
        "folder of a trained manifold classifier; empty: the classifier's features", optional=True
    ),
    "cutoff": Field(
        "of the high-pass filter, as a share of the Nyquist frequency",
        number("", 0, 1, above=True).check,
        optional=True,
    ),
    "block": word("endpoint of the classifier whose feature maps are shown", optional=True),
    "channels": whole("how many feature maps", optional=True),
    "gains": _GAINS,
    "bins": whole("of the spectrum", optional=True),
}

TRAINING: dict[str, Field] = {
    "recipe": word("the argument of the configuration"),
    "network": word("which network"),
    "network_options": labelled("options of a network of any size", whole(""), least=0),
    "seed": SEED,
    "initial_weights": word("weights file to start from; empty: random weights"),
    "train_folder": word("folder of high-resolution images, or tfds:div2k"),
    "validation_folder": word("folder of images for the validation; empty: none"),
    "test_folders": items("folders on which the card gives PSNR and SSIM", word("")),
    "data": word("for the card: what the training images are"),
    "licence": word("for the card: under which terms they are"),
    "loss": word("what is minimised", "l1", "l2", "srgan"),
    "patch": whole("side of a low-resolution patch in pixels", high=16384),
    "batch_size": whole("patches in a batch"),
    "steps": whole("of training"),
    "learning_rate": number("of Adam", above=True),
    "schedule": word("of the learning rate", "halve", "cosine"),
    "halve_every": whole("steps between two halvings"),
    "warmup_steps": whole("steps in which the learning rate rises", low=0),
    "adam_b2": number("decay of Adam's second moments", 0, 1, below=True),
    "clip_norm": number("largest norm of a gradient", above=True),
    "ema_decay": number("decay of the averaged weights; 0: no average", 0, 1, below=True),
    "precision": word("what the training computes in", "float32", "tf32", "bf16"),
    "crop": word("where patches are cut", "device", "host"),
    "storage": word("how weights are stored", "float32", "bf16", "auto"),
    "minutes": number("time instead of steps; 0: steps"),
    "log_every": whole("steps between two records"),
    "evaluate_every": whole("steps between two validations"),
    "checkpoint_every": whole("steps between two checkpoints"),
    "loss_weights": section(
        "of an SRGAN's loss",
        {
            "content": number("of the features"),
            "pixels": number("of the pixels"),
            "adversarial": number("of the discriminator"),
        },
        optional=True,
    ),
    "discriminator_features": whole("channels of the first layer of an SRGAN's discriminator", optional=True),
    "discriminator_hidden": whole("units of its dense layer", optional=True),
    "perceptual": section(
        "whose features an SRGAN compares",
        {
            "network": word("which network"),
            "weights": word("weights file; empty: its published weights"),
            "endpoint": word("which of its layers"),
            "scale": number("factor of the features", above=True),
        },
        optional=True,
    ),
}

SCHEMAS: dict[str, dict[str, Field]] = {
    "evaluation": EVALUATION,
    "adaptive": ADAPTIVE,
    "manifold": MANIFOLD,
    "figures": FIGURES,
    "training": TRAINING,
}


def check(kind: str, config: Any) -> None:
    """Check a whole configuration before anything is read or made.

    Parameters
    ----------
    kind : str
        One of `SCHEMAS`.
    config : dict
        Plain data.

    Raises
    ------
    InputError
        One line that names the field, what it must be, and the valid choices.
    """
    if not isinstance(config, dict):
        raise InputError(f"a configuration must be a dictionary, not {brief(config)}")
    check_plain(config)
    check_fields(config, SCHEMAS[kind], "config")


def describe(fields: Mapping[str, Field], prefix: str = "config") -> Iterator[tuple[str, str]]:
    """Every field with its text, for `--help`."""
    for name, field in fields.items():
        yield f"{prefix}.{name}", field.text + (" (may be left out)" if field.optional else "")
        if field.fields:
            yield from describe(field.fields, f"{prefix}.{name}")
