"""HTML pages of the runs that leave their tables as text: `adaptive`, `manifold` and `transfer`."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from srdef.reporting.html import check_kind, document, facts, read_json, read_text

# What `config.json` must say where one classifier was attacked.
_OF_ONE = {"classifier": {"name": str}, "seed": int}

# Without HTML: what is in a table came from a configuration.
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "xhtmlOut": False}).enable("table")


def render(markdown: str, folder: Path | None = None) -> str:
    """Markdown as HTML, its tables in boxes that scroll, and the PNGs that it names in `folder` within it."""

    def embedded(match: re.Match[str]) -> str:
        path = folder / match[1] if folder else None
        return f'src="{_data_address(path)}"' if path and path.is_file() else match[0]

    text = re.sub(r'src="([\w.-]+\.png)"', embedded, _MARKDOWN.render(markdown))
    text = text.replace("<table>", "<div class=scroll><table>").replace("</table>", "</table></div>")
    return f"<div class=text>{text}</div>"


def picture(path: Path, alternative: str) -> str:
    """A PNG of the run in the page, or nothing if it is not there."""
    if not path.is_file():
        return ""
    return f'<div class=text><img src="{_data_address(path)}" alt="{alternative}"></div>'


def _data_address(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _how(workdir: Path, classifiers: str, config: Mapping[str, Any], script: str, images: Any) -> str:
    """Classifiers, images, seed and versions."""
    made_by = {
        "classifier" if "classifier" in config else "classifiers": classifiers,
        "images": images,
        "seed": config["seed"],
        **read_json(workdir, "environment.json", script),
    }
    return f"<h2>How it was made</h2><div class=scroll>{facts(made_by)}</div>"


def adaptive(workdir: Path, config: Mapping[str, Any]) -> str:
    """The page of `experiments.adaptive`: curves, a table for each ε, and the self-checks if they were run.

    Raises
    ------
    InputError
        If the run is not finished.
    """
    check_kind(workdir / "config.json", "adaptive", config, _OF_ONE)
    count = read_json(workdir, "adaptive.json", "adaptive", {"images": int})["images"]
    name = config["classifier"]["name"]
    checks = workdir / "checks.md"
    sections = [
        f"<p class=lead>{count} images that the undefended classifier classifies correctly, attacked with "
        "more and more knowledge of the defense. The worst case is that of each image.</p>",
        picture(workdir / "curves.png", "Accuracy against ε: a panel a defense, a curve an attacker"),
        "<h2>Accuracy</h2>",
        render(read_text(workdir, "adaptive.md", "adaptive")),
        "<h2>Self-checks</h2>",
        render(read_text(workdir, checks.name, "adaptive"), workdir)
        if checks.is_file()
        else "<p>They were not run.</p>",
        _how(workdir, name, config, "adaptive", count),
    ]
    return document(f"{name}: attackers who know the defense", sections, config)


def manifold(workdir: Path, config: Mapping[str, Any]) -> str:
    """The page of `experiments.manifold`: its tables, and its curves in training or those of its study.

    Raises
    ------
    InputError
        If the run is not finished.
    """
    check_kind(workdir / "config.json", "manifold", config, _OF_ONE)
    kind = {"images": {"train": int, "test": int}}
    counts = read_json(workdir, "manifold.json", "manifold", kind)["images"]
    name = config["classifier"]["name"]
    curves = [
        "<h2>Training</h2>",
        picture(workdir / "curves.png", "Loss and accuracy over the steps of the training"),
    ]
    if "study" in config:
        curves = [picture(workdir / "study.png", "Accuracy against the number of pairs trained on")]
    sections = [
        "<p class=lead>A detector of adversarial images, trained on top of the classifier, and what it says "
        "of defended ones.</p>",
        render(read_text(workdir, "study.md" if "study" in config else "manifold.md", "manifold")),
        *curves,
        _how(
            workdir, name, config, "manifold", f"{counts['train']} trained on, {counts['test']} tested with"
        ),
    ]
    return document(f"{name}: clean or adversarial?", sections, config)


def transfer(workdir: Path, config: Mapping[str, Any]) -> str:
    """The page of `experiments.transfer`: its heat map and its tables.

    Raises
    ------
    InputError
        If the run is not finished.
    """
    kind = {"classifiers": {...: {"name": str}}, "seed": int}
    check_kind(workdir / "config.json", "transfer", config, kind)
    count = read_json(workdir, "transfer.json", "transfer", {"images": int})["images"]
    names = ", ".join(f"{label} ({entry['name']})" for label, entry in config["classifiers"].items())
    sections = [
        "<p class=lead>Each attack is made on one classifier, the source, and shown to the others.</p>",
        picture(workdir / "transfer.png", "Share of misclassified images by attack, source and target"),
        render(read_text(workdir, "transfer.md", "transfer")),
        _how(workdir, names, config, "transfer", count),
    ]
    return document("Which attacks transfer between classifiers?", sections, config)
