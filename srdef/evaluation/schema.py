"""What a configuration may hold: every field's type, range and meaning, checked before anything is made.

The options of attacks, defenses, networks and data sets are those of their builders; their types are read
from the builders' annotations. The texts of the fields are what `--help` prints.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, get_args

from srdef import attacks, datasets, defenses, models
from srdef.attacks.arithmetic import Arithmetic
from srdef.errors import InputError
from srdef.evaluation.fields import (
    Field,
    check_fields,
    either,
    items,
    labelled,
    named,
    number,
    or_word,
    rising,
    section,
    whole,
    word,
)
from srdef.evaluation.plain_data import LARGEST_SEED, brief, check_annotated, check_plain

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


_ATTACK = named("", attacks.REGISTRY, BESIDE_ATTACK, given=("bank",))
_STEP = named("", defenses.REGISTRY, {})
_STEPS = items("", _STEP, least=1)
_ONE_OF_A_TABLE = named("", defenses.REGISTRY, BESIDE_DEFENSE)
# Where nothing is said beside it.
_DEFENSE = either("", _STEPS, _STEP, lambda value: isinstance(value, list | tuple))
# A row of the table: a list of steps stands under `defense` where something is said beside it.
_ROW = either(
    "",
    section("", {"defense": _STEPS, **BESIDE_DEFENSE}),
    either("", _STEPS, _ONE_OF_A_TABLE, lambda value: isinstance(value, list | tuple)),
    lambda value: isinstance(value, dict) and "defense" in value,
)
# Adaptive attacks may differentiate another defense than the one that protects.
_PROTECTED = either(
    "",
    section("", {"defense": _DEFENSE, "surrogate": _DEFENSE}),
    _DEFENSE,
    lambda value: isinstance(value, dict) and "defense" in value,
)

SEED = whole("everything random is drawn from it", low=0, high=LARGEST_SEED)
# As `config.batch_size`: see `batch_sizes`.
AUTO = "auto"
_IN_A_BATCH = "images in a batch, shared by all devices"
BATCH_SIZE = whole(_IN_A_BATCH)
BATCH_SIZE_OR_AUTO = or_word(AUTO, f"{_IN_A_BATCH}; auto: the most that fit on an accelerator", BATCH_SIZE)
ARITHMETIC = word(
    "what steps of attacks are computed in, where the device has it; all else is computed in float32",
    *get_args(Arithmetic),
    optional=True,
)

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
    "batch_size": BATCH_SIZE_OR_AUTO,
    "arithmetic": ARITHMETIC,
    "gallery": section(
        "the picture of the first images, before and after",
        {"attack": word("label of the attack"), "images": whole("how many; 0: no picture", low=0)},
        optional=True,
    ),
    "paper": section(
        "the paper's table whose numbers stand beside ours",
        {"table": whole("its number"), "classifier": word("as the paper calls it", optional=True)},
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
        "attack": named("the attack, without ε", attacks.REGISTRY, {}, given=("epsilon", "bank")),
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
    "batch_size": BATCH_SIZE_OR_AUTO,
    "arithmetic": ARITHMETIC,
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

TRANSFER: dict[str, Field] = {
    "seed": SEED,
    "batch_size": BATCH_SIZE_OR_AUTO,
    "arithmetic": ARITHMETIC,
    "dataset": _dataset(),
    "classifiers": labelled("the classifiers by label, each a source and a target", _model("")),
    "attacks": labelled(
        "the attacks by label; what takes a bank of images gets those of the data set",
        named("", attacks.REGISTRY, {"storage": BESIDE_ATTACK["storage"]}, given=("bank",)),
    ),
    "columns": items("which of the attacks, in this order; empty: all", word("")),
    "defenses": labelled("what stands before the targets by label: a defense, or a list", _DEFENSE),
    "rows": items("which of the defenses, in this order; empty: all", word("")),
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
    "study": section(
        "many trainings, each as in config.manifold but for these",
        {
            "pairs": items("how many pairs are trained on", whole(""), least=1),
            "blocks": items("how many blocks are trained; 0: the head alone", whole("", low=0), least=1),
            "controls": items(
                "labels of config.attacks that are no attacks, such as noise: no pairs", word("")
            ),
            "joint": section(
                "the attack on classifier and detector together",
                {"epsilon": number("its budget", 0, 1, above=True), "steps": whole("of APGD")},
            ),
        },
        optional=True,
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
    "transfer": TRANSFER,
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
