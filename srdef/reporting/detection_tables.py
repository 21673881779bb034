"""The tables of the detector: how good it is, and how many defended images it calls clean."""

import math

from srdef.detection.experiment import Result
from srdef.evaluation.experiment import CLEAN
from srdef.metrics import Rate
from srdef.storage.files import canonical_json, without_nan


def to_json(result: Result) -> str:
    """All numbers; null for a share of no images."""
    numbers = {
        "images": result.images,
        "pairs": result.pairs,
        "pair_accuracy": result.accuracy,
        "roc_auc": result.auc,
        "clean_called_clean": result.clean._asdict(),
        "attacks": {
            label: {"called_adversarial": found._asdict(), "roc_auc": area}
            for label, (found, area) in result.attacks.items()
        },
        "called_clean": {
            defense: {attack: found._asdict() for attack, found in row.items()}
            for defense, row in result.called_clean.items()
        },
    }
    return canonical_json(without_nan(numbers))


def to_markdown(result: Result) -> str:
    """How good the detector is, and how many defended images it calls clean."""
    labels = list(result.attacks)
    lines = [
        f"**Manifold classifier.** Trained on {result.pairs['train']} pairs of {result.images['train']} "
        f"images, tested with {result.pairs['test']} pairs of {result.images['test']} others: mean accuracy "
        f"over the images of the pairs {100 * result.accuracy:.1f} % (a coin: 50 %), ROC-AUC "
        f"{result.auc:.4f} (the paper: 99.6 % on its own data).",
        "",
        "| | " + " | ".join(labels) + " |",
        "|---" + "|---:" * len(labels) + "|",
        "| called adversarial (%) | " + " | ".join(_cell(result.attacks[a][0]) for a in labels) + " |",
        "| ROC-AUC | " + " | ".join(_number(result.attacks[a][1], 3) for a in labels) + " |",
        "",
        "**Share called clean (%).**",
        "",
        "| | clean | all attacks | " + " | ".join(labels) + " |",
        "|---" + "|---:" * (len(labels) + 2) + "|",
    ]
    for defense, row in result.called_clean.items():
        found = [row[label] for label in labels]
        total = sum(cell.total for cell in found)
        share = 100 * sum(cell.successes for cell in found) / total if total else float("nan")
        cells = [_cell(row[CLEAN]), _number(share, 1), *(_cell(cell) for cell in found)]
        lines.append(f"| {defense} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "In brackets 95 % Wilson intervals. Only adversarial images that fool the classifier; all images "
        "in 8 bits. The column `clean` of a defense, and a row that only resizes, are the controls: a "
        "detector that answers to resampling moves there too. The paper: about 91 % of super-resolved "
        "adversarial images are called clean.",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(found: Rate) -> str:
    if not found.total:
        return "–"
    return f"{100 * found.value:.1f} [{100 * found.low:.0f}–{100 * found.high:.0f}]"
