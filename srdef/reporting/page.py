"""One self-contained HTML page from the folder of a finished evaluation.

Everything stands in the page: style, script, plots (drawn with HTML, so that they fit a phone) and images.
It works from a file without a network, in light and dark mode. Numbers are those of the files that
`experiments.evaluate` has left; attacked images come from its store, and only the defended images of the
gallery are computed again. Pages of the other experiments: `report_text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tensorstore as ts

from srdef import defenses, images
from srdef.errors import InputError
from srdef.evaluation import gray_box
from srdef.evaluation.experiment import resolve
from srdef.reporting import text_page
from srdef.reporting.html import document, encode, facts, read_json

FILES = ("config.json", "table.json", "attacks.json", "environment.json", "records.parquet")


@dataclass(frozen=True)
class Version:
    """One version of an image in the gallery: its name, an image in [0, 1], and what it is taken for."""

    name: str
    pixels: np.ndarray
    answer: str
    right: bool


@dataclass(frozen=True)
class Case:
    """One image of the gallery under one attack: clean, attacked, and defended in several ways."""

    label: str
    attack: str
    distance: float
    versions: Sequence[Version]


def find_store(workdir: Path, attack: str, strengths: Sequence[Mapping[str, Any]]) -> Path | None:
    """The folder of an attack's images that the run has named, or None if it is not there."""
    for row in strengths:
        if row["attack"] == attack and "store" in row:
            store = workdir / "store" / "adversarial" / row["store"]
            return store if (store / "manifest.json").is_file() else None
    return None


def read_array(folder: Path, rows: slice) -> np.ndarray:
    """Rows of one array of a store."""
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}, "open": True}
    return np.asarray(ts.open(spec).result()[rows].read().result())


def seconds_of(store: Path) -> float:
    """From the first to the last file of a store: how long it took, if the run was not interrupted."""
    times = [path.stat().st_mtime for path in store.rglob("*") if path.is_file()]
    return max(times) - min(times)


def make_cases(
    workdir: Path,
    config: dict[str, Any],
    strengths: Sequence[Mapping[str, Any]],
    records: list[dict[str, Any]],
    attacks: Sequence[str],
    count: int,
) -> list[Case]:
    """The first `count` clean-correct images under each of `attacks`, with every defense.

    Raises
    ------
    InputError
        If an attack is not one of the run, its images are not in the store, or the configuration cannot
        be resolved here (a data set that is missing, say).
    """
    experiment = resolve(config)
    # In the order of their first record; a stored configuration is sorted by name.
    labels = dict.fromkeys(record["defense"] for record in records)
    names = {label: type(experiment.defenses[label]) for label in labels}
    plain = [label for label, kind in names.items() if kind is defenses.Identity]
    others = [label for label in names if label not in plain]
    said = {(r["attack"], r["defense"], r["image_id"]): r for r in records}
    classes = experiment.dataset.class_names
    cases = []
    for attack in attacks:
        if attack not in experiment.attacks:
            known = ", ".join(experiment.attacks)
            raise InputError(f"unknown attack {attack!r}; the run has: {known}")
        # In the order in which the run has written them: one record an image and defense.
        first = [r for r in records if r["attack"] == attack and r["defense"] == next(iter(names))]
        store = find_store(workdir, attack, strengths)
        if store is None:
            raise InputError(f"the images of {attack} are not in {workdir}/store: run experiments.evaluate")
        first = first[:count]
        attacked = read_array(store / "images", slice(len(first)))
        if attacked.dtype == np.uint8:
            attacked = images.from_uint8(attacked)
        ids = np.array([record["image_id"] for record in first])
        position = {int(i): row for row, i in enumerate(experiment.dataset.ids)}
        clean = experiment.dataset.images[[position[int(i)] for i in ids]]
        made = {
            label: gray_box.defended_images(
                experiment, experiment.defenses[label], attacked, ids, experiment.batch_size
            )
            for label in others
        }

        for row, record in enumerate(first):
            i = record["image_id"]

            def version(name: str, pixels: np.ndarray, found: dict[str, Any] | None, label: int) -> Version:
                if found is None:
                    return Version(name, pixels, "", False)
                prediction = found["prediction"]
                return Version(name, pixels, classes[prediction], prediction == label)

            label = record["label"]
            undefended = said.get((attack, plain[0], i)) if plain else None
            versions = [
                Version("clean", clean[row], classes[label], True),
                version("attacked", attacked[row], undefended, label),
                *(version(name, made[name][row], said.get((attack, name, i)), label) for name in others),
            ]
            cases.append(Case(classes[label], attack, record["linf"], versions))
    return cases


def _percent(cell: Mapping[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{100 * cell['value']:.1f}"


def _interval(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['low']:.0f}–{100 * cell['high']:.0f}"


def result_table(table: Mapping[str, Any]) -> str:
    """The destruction rates, with intervals and the paper's numbers."""
    cells = {(cell["defense"], cell["attack"]): cell for cell in table["cells"]}
    lines = ["<table><thead><tr><th></th>"]
    lines += [f"<th scope=col>{escape(attack)}</th>" for attack in table["attacks"]]
    lines.append("</tr></thead><tbody>")
    for defense in table["defenses"]:
        lines.append(f"<tr><th scope=row>{escape(defense)}</th>")
        for attack in table["attacks"]:
            cell = cells.get((defense, attack))
            if cell is None:
                lines.append("<td>–</td>")
                continue
            paper = cell.get("paper_percent")
            beside = "" if paper is None else f"<span class=paper>paper {paper:.1f}</span>"
            lines.append(f"<td><b>{_percent(cell)}</b><small>{_interval(cell)}</small>{beside}</td>")
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table>"])


def plot(table: Mapping[str, Any]) -> str:
    """One card an attack: a dot and an interval for each defense, and a tick where the paper is."""
    cells = {(cell["defense"], cell["attack"]): cell for cell in table["cells"]}
    cards = []
    for attack in table["attacks"]:
        rows = []
        for i, defense in enumerate(table["defenses"]):
            cell = cells.get((defense, attack))
            if cell is None or cell["value"] is None:
                continue
            low, high, value = (100 * cell[name] for name in ("low", "high", "value"))
            paper = cell.get("paper_percent")
            tick = "" if paper is None else f'<i class=tick style="left:{paper:.2f}%"></i>'
            rows.append(
                f"<div class=row><span>{escape(defense)}</span>"
                f'<span class="track c{i % 6}" role=img aria-label="{value:.1f} %, interval {low:.0f} to '
                f'{high:.0f} %"><i class=bar style="left:{low:.2f}%;width:{high - low:.2f}%"></i>{tick}'
                f'<i class=dot style="left:{value:.2f}%"></i></span><b>{value:.0f}</b></div>'
            )
        cards.append(f"<div class=card><h3>{escape(attack)}</h3>{''.join(rows)}</div>")
    return f"<div class=cards>{''.join(cards)}</div>"


def attack_table(strengths: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> str:
    """How strong each attack was, and how long it took."""
    head = ("attack", "stored as", "fooled (%)", "interval", "median L∞ (levels)", "median L2", "seconds")
    lines = ["<table><thead><tr>", *(f"<th>{name}</th>" for name in head), "</tr></thead><tbody>"]
    timed: set[str] = set()
    for row in strengths:
        name = row["attack"]
        linf = "–" if row["median_linf"] is None else f"{255 * row['median_linf']:.3g}"
        l2 = "–" if row["median_l2"] is None else f"{row['median_l2']:.3g}"
        # The row of the same images in 8 bits took no attack of its own.
        time = f"{seconds[name]:.1f}" if name in seconds and name not in timed else ""
        timed.add(name)
        fooled = row["fooled"]
        values = (_percent(fooled), _interval(fooled), linf, l2, time)
        lines.append(f"<tr><th scope=row>{escape(name)}</th><td>{row['storage']}</td>")
        lines += [f"<td>{value}</td>" for value in values]
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table>"])


def gallery(cases: Sequence[Case]) -> str:
    """A card for each image: a slider between the clean image and the chosen version."""
    cards = []
    for number, case in enumerate(cases):
        buttons, layers = [], []
        for i, version in enumerate(case.versions):
            right = "right" if version.right else "wrong"
            mark = "✓" if version.right else "✗"
            answer = f"{mark} {escape(version.answer)}" if version.answer else ""
            checked = " checked" if i == 1 else ""
            buttons.append(
                f'<label><input type=radio name="case{number}" value={i}{checked}>{escape(version.name)}'
                f"<span class={right}>{answer}</span></label>"
            )
            hidden = "" if i <= 1 else " hidden"
            alternative = escape(f"{case.label}, {version.name}", quote=True)
            place = "base" if i == 0 else "over"
            layers.append(f'<img class={place} src="{encode(version.pixels)}" alt="{alternative}"{hidden}>')
        cards.append(
            f"<figure class=case><div class=frame>{''.join(layers)}<i class=edge></i></div>"
            f'<input class=slider type=range min=0 max=100 value=50 aria-label="how much of the clean image">'
            f"<figcaption><b>{escape(case.label)}</b> under {escape(case.attack)}, at most "
            f"{255 * case.distance:.3g}/255</figcaption><div class=choices>{''.join(buttons)}</div></figure>"
        )
    return f"<div class=gallery>{''.join(cards)}</div>"


def page(
    config: Mapping[str, Any],
    table: Mapping[str, Any],
    strengths: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    seconds: Mapping[str, float],
    cases: Sequence[Case],
    notes: Sequence[str] = (),
) -> str:
    """The whole page from what the files hold; `notes` stand under the gallery."""
    clean = table["clean_accuracy"]
    title = f"{table['classifier']}: attacks and defenses"
    metric = table["metric"]
    paper = table.get("paper")
    beside = ""
    if paper:
        beside = (
            f" “paper”: Table {paper['table']} of Mustafa et al. (arXiv:1901.01677), {paper['classifier']}, "
            "on its own images; in the plots a tick."
        )
    written = "".join(f"<p>{escape(note)}</p>" for note in table["notes"])
    made_by = {
        "classifier": table["classifier"],
        "images": f"{clean['total']}, of which {clean['successes']} are classified correctly when clean",
        "seed": table["seed"],
        **environment,
    }
    sections = [
        f"<p class=lead>{clean['successes']} of {clean['total']} images are classified correctly when clean "
        f"({_percent(clean)} %). They are attacked without knowledge of the defense; then every defense is "
        "applied to the same attacked images.</p>",
        "<h2>Destruction rate (%)</h2>",
        f"<div class=scroll>{result_table(table)}</div>",
        f"<p>{escape(metric[0].upper() + metric[1:])}; under it the {escape(table['interval'])}.{beside}</p>",
        written,
        f"<h2>The same as a picture</h2>{plot(table)}",
        f"<h2>Attacks</h2><div class=scroll>{attack_table(strengths, seconds)}</div>",
        "<p>Against the undefended classifier; medians over the images that were fooled; L2 on [0, 1]; "
        "uint8: what an 8-bit file would hold. Seconds: from the first to the last file that the attack "
        "wrote, so pauses of a run that was stopped count too.</p>",
    ]
    if cases:
        sections += [
            "<h2>Images</h2><p>Left of the line the clean image, right of it the chosen version: move the "
            "slider, or point at an image to see it whole. Under each version stands what the classifier "
            "takes it for.</p>",
            gallery(cases),
        ]
    sections += [f"<p>{escape(note)}</p>" for note in notes]
    sections.append(f"<h2>How it was made</h2><div class=scroll>{facts(made_by)}</div>")
    return document(title, sections, config)


def build(workdir: Path, attacks: Sequence[str] | None = None, count: int = 6) -> str:
    """The page of the run in `workdir`.

    Parameters
    ----------
    workdir : Path
        Of `experiments.evaluate`, `experiments.adaptive` or `experiments.manifold`, finished.
    attacks : sequence of str, optional
        Whose images the gallery shows, which only an evaluation has; default: that of the configuration's
        gallery.
    count : int
        Images in the gallery for each attack; 0 for no gallery, which needs neither data nor networks.

    Raises
    ------
    InputError
        If the evaluation is not finished, or the gallery cannot be made.
    """
    config = read_json(workdir, "config.json")
    for field, other in (("threats", text_page.adaptive), ("manifold", text_page.manifold)):
        if field in config:
            if attacks:
                raise InputError(f"{workdir} is not of experiments.evaluate: its page has no gallery")
            return other(workdir, config)
    table, strengths, environment = (read_json(workdir, name) for name in FILES[1:4])
    if not (workdir / FILES[4]).is_file():
        raise InputError(f"no finished evaluation in {workdir} ({FILES[4]} is missing)")
    if count < 0:
        raise InputError(f"images must be at least 0, not {count}")
    records = pq.read_table(workdir / FILES[4]).to_pylist()
    seconds = {}
    for attack in config["attacks"]:
        store = find_store(workdir, attack, strengths)
        if store is not None:
            seconds[attack] = seconds_of(store)
    cases = []
    if count:
        chosen = list(attacks) if attacks else [config["gallery"]["attack"]]
        cases = make_cases(workdir, config, strengths, records, chosen, count)
    return page(config, table, strengths, environment, seconds, cases)
