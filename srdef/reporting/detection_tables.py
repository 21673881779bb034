"""The tables of the detector: how good it is, how many defended images it calls clean, and its study."""

import math
from dataclasses import asdict
from typing import Any

from srdef.detection.experiment import Result
from srdef.detection.pairs import Accuracy
from srdef.detection.study import Study
from srdef.evaluation.experiment import CLEAN
from srdef.metrics import Rate
from srdef.reporting import labels
from srdef.storage.files import canonical_json, for_json


def to_json(result: Result) -> str:
    """All numbers; null for a share of no images."""
    return canonical_json(for_json(_numbers(result)))


def _numbers(result: Result) -> dict[str, Any]:
    return {
        "images": result.images,
        "intervals": _intervals(result),
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


def _intervals(result: Result) -> str:
    if not result.grouped:
        return "95 % Wilson intervals"
    return (
        "95 % Wilson intervals, of as many independent images as those are worth that are cut from the same "
        "source images"
    )


def to_markdown(result: Result) -> str:
    """How good the detector is, and how many defended images it calls clean."""
    attacks = list(result.attacks)
    lines = [
        f"**Manifold classifier.** Trained on {result.pairs['train']} pairs of {result.images['train']} "
        f"images, tested with {result.pairs['test']} pairs of {result.images['test']} others: mean accuracy "
        f"over the images of the pairs {100 * result.accuracy:.1f} % (a coin: 50 %), ROC-AUC "
        f"{result.auc:.4f} (the paper: 99.6 % on its own data).",
        "",
        "| " + labels.row(attacks),
        "|---" + "|---:" * len(attacks) + "|",
        labels.row(["called adversarial (%)", *(_cell(result.attacks[a][0]) for a in attacks)]),
        labels.row(["ROC-AUC", *(_number(result.attacks[a][1], 3) for a in attacks)]),
        "",
        "**Share called clean (%).**",
        "",
        "| " + labels.row(["clean", "all attacks", *attacks]),
        "|---" + "|---:" * (len(attacks) + 2) + "|",
    ]
    for defense, row in result.called_clean.items():
        found = [row[label] for label in attacks]
        total = sum(cell.total for cell in found)
        share = 100 * sum(cell.successes for cell in found) / total if total else float("nan")
        cells = [_cell(row[CLEAN]), _number(share, 1), *(_cell(cell) for cell in found)]
        lines.append(labels.row([defense, *cells]))
    lines += [
        "",
        f"In brackets {_intervals(result)}. Only adversarial images that fool the classifier; all images "
        "in 8 bits. The column `clean` of a defense, and a row that only resizes, are the controls: a "
        "detector that answers to resampling moves there too. The paper: about 91 % of super-resolved "
        "adversarial images are called clean.",
    ]
    return "\n".join(lines) + "\n"


def study_to_json(study: Study) -> str:
    """All numbers of a study; null for a share of no images."""
    numbers = {
        "settings": [asdict(setting) for setting in study.settings],
        "best": {"blocks": study.best.blocks, "pairs": study.best.pairs},
        "sources": study.sources,
        "result": _numbers(study.result),
        "folders": {folder: asdict(found) for folder, found in study.folders.items()},
        "controls": {label: found._asdict() for label, found in study.controls.items()},
        "both": {
            attacker: {name: found._asdict() for name, found in row.items()}
            for attacker, row in study.both.items()
        },
    }
    return canonical_json(for_json(numbers))


def study_to_markdown(study: Study) -> str:
    """Accuracy by pairs and blocks, and what the best detector says."""
    counts = list(dict.fromkeys(setting.pairs for setting in study.settings))
    found = {(setting.blocks, setting.pairs): setting for setting in study.settings}
    lines = [
        f"**Accuracy (%) on the same {study.best.accuracy.pairs} test pairs,** of "
        f"{study.result.images['test']} images from {study.sources['test']} source images, none of which is "
        f"among the {study.sources['train']} trained on. Rows: how many of the last blocks are trained, "
        "beside the new head.",
        "",
        "| blocks | "
        + " | ".join(f"{count:,} pairs" for count in counts)
        + " | ROC-AUC | on its training pairs |",
        "|---:" * (len(counts) + 3) + "|",
    ]
    for blocks in dict.fromkeys(setting.blocks for setting in study.settings):
        row = [found[blocks, count] for count in counts]
        cells = [_accuracy(setting.accuracy) for setting in row]
        ends = [_number(row[-1].auc, 4), f"{100 * row[-1].train_accuracy:.1f}"]
        lines.append(f"| {blocks or 'none'} | " + " | ".join([*cells, *ends]) + " |")
    lines += [
        "",
        "In brackets 95 % bootstrap intervals over the source images. The last two columns are those of the "
        f"most pairs. The best setting, chosen by these test pairs: {_blocks(study.best.blocks)}, "
        f"{study.best.pairs:,} pairs. All below is about it.",
        "",
        "| crops from | test pairs | accuracy (%) |",
        "|---|---:|---:|",
        *(
            labels.row([name or "one folder", str(its.pairs), _accuracy(its)])
            for name, its in study.folders.items()
        ),
        "",
        to_markdown(study.result),
        "**Clean images with noise, and an attacker who knows the detector.**",
        "",
        "| | fools the classifier (%) | called clean (%) | both (%) |",
        "|---|---:|---:|---:|",
        *(labels.row([label, "–", _cell(its), "–"]) for label, its in study.controls.items()),
        *(
            f"| APGD against {attacker} | "
            + " | ".join(_cell(row[name]) for name in ("fools", "clean", "both"))
            + " |"
            for attacker, row in study.both.items()
        ),
        "",
        f"The shares are those of all test images, in brackets {_intervals(study.result)}.",
    ]
    return "\n".join(lines) + "\n"


def _blocks(count: int) -> str:
    """What of the network is trained beside the head, in words."""
    return "the head alone" if count == 0 else f"the last {count} blocks" if count > 1 else "the last block"


def _accuracy(found: Accuracy) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.0f}–{100 * found.high:.0f}]"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _cell(found: Rate) -> str:
    if not found.total:
        return "–"
    return f"{100 * found.value:.1f} [{100 * found.low:.0f}–{100 * found.high:.0f}]"
