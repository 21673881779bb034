"""One self-contained HTML page from the folder of a finished evaluation.

Style, script, plots (drawn with HTML, so that they fit a phone) and images are all in the page: it works
from a file without a network, in light and dark mode. Numbers are those of the files that
`experiments.evaluate` has left; adversarial images come from its store, and only the defended images of the
gallery are computed again. The pages of other experiments are in `text_page`.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from srdef.errors import InputError
from srdef.reporting import epsilon_curves, labels, page_files, page_traces, text_page
from srdef.reporting.html import document, facts, read_json
from srdef.reporting.page_images import Case, find_store, gallery, make_cases, seconds_of
from srdef.reporting.tables import diagnoses


def _percent(cell: Mapping[str, Any]) -> str:
    return "–" if cell["value"] is None else f"{100 * cell['value']:.1f}"


def _interval(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['low']:.0f}–{100 * cell['high']:.0f}"


def result_table(table: Mapping[str, Any]) -> str:
    """The accuracies after attack and defense, with intervals and the paper's numbers."""
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
        linf = "–" if row["median_linf"] is None else labels.number(255 * row["median_linf"], 3)
        l2 = "–" if row["median_l2"] is None else labels.number(row["median_l2"], 3)
        # The row of the same images in 8 bits took no attack of its own.
        time = f"{seconds[name]:.1f}" if name in seconds and name not in timed else ""
        timed.add(name)
        fooled = row["fooled"]
        values = (_percent(fooled), _interval(fooled), linf, l2, time)
        lines.append(f"<tr><th scope=row>{escape(name)}</th><td>{escape(row['storage'])}</td>")
        lines += [f"<td>{value}</td>" for value in values]
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table>"])


def page(
    config: Mapping[str, Any],
    table: Mapping[str, Any],
    strengths: Sequence[Mapping[str, Any]],
    environment: Mapping[str, Any],
    seconds: Mapping[str, float],
    cases: Sequence[Case],
    notes: Sequence[str] = (),
    curves: str = "",
) -> str:
    """The whole page from what the files hold; `notes` are written under the gallery, `curves` are HTML."""
    clean = table["clean_accuracy"]
    title = f"{table['classifier']}: attacks and defenses"
    metric = table["metric"][:1].upper() + table["metric"][1:]
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
        "applied to the same adversarial images.</p>",
        "<h2>Accuracy after attack and defense (%)</h2>",
        f"<div class=scroll>{result_table(table)}</div>",
        f"<p>{escape(metric)}; under it the {escape(table['interval'])}.{beside}</p>",
        written,
        f"<h2>The same as a picture</h2>{plot(table)}",
        curves,
        f"<h2>Attacks</h2><div class=scroll>{attack_table(strengths, seconds)}</div>",
        "<p>Against the undefended classifier; medians over the images that were fooled; L2 on [0, 1]; "
        "uint8: what an 8-bit file would hold. Seconds: from the first to the last file that the attack "
        "wrote, so pauses of a run that was stopped count too.</p>",
        *(f"<p><b>{escape(line)}</b></p>" for line in diagnoses(strengths)),
    ]
    if cases:
        sections += [
            "<h2>Images</h2><p>Left of the line the clean image, right of it the chosen version: move the "
            "slider, or point at an image to see it whole. The classifier's answer is written under each "
            "version.</p>",
            gallery(cases),
        ]
    sections += [f"<p>{escape(note)}</p>" for note in notes]
    sections.append(f"<h2>How it was made</h2><div class=scroll>{facts(made_by)}</div>")
    return document(title, sections, config)


def build(
    workdir: Path,
    attacks: Sequence[str] | None = None,
    count: int = 6,
    traced: Sequence[str] = (),
) -> str:
    """The page of the run in `workdir`.

    An evaluation with an attack at several ε also gets its curves there: see `epsilon_curves`.

    Parameters
    ----------
    workdir : Path
        Of `experiments.evaluate`, `adaptive`, `manifold` or `transfer`, finished.
    attacks : sequence of str, optional
        Whose images the gallery shows, which only an evaluation has; default: that of the configuration's
        gallery, or the first.
    count : int
        Images in the gallery for each attack; 0 for no gallery, which needs neither data nor networks.
    traced : sequence of str
        Attacks that are run once more on as many images, to draw their loss, margin and success at each step.

    Raises
    ------
    InputError
        If the evaluation is not finished, or the gallery or the traces cannot be made.
    """
    config = read_json(workdir, "config.json")
    others = {
        "threats": text_page.adaptive,
        "manifold": text_page.manifold,
        "classifiers": text_page.transfer,
    }
    for field, other in others.items():
        if field in config:
            if attacks or traced:
                wanted = "gallery" if attacks else "traces"
                raise InputError(f"{workdir} is not of srdef evaluate: its page has no {wanted}")
            return other(workdir, config)
    page_files.check_config(workdir, config)
    for label in (*(attacks or ()), *traced):  # also where no image is shown
        if label not in config["attacks"]:
            raise InputError(f"unknown attack {label!r}; the run has: {', '.join(config['attacks'])}")
    if count < 0:
        raise InputError(f"images must be at least 0, not {count}")
    table, strengths, environment, records = page_files.read(workdir, config)
    seconds = {}
    for attack in config["attacks"]:
        store = find_store(workdir, attack, strengths)
        if store is not None:
            seconds[attack] = seconds_of(store)
    cases = []
    if count:
        usual = config.get("gallery", {}).get("attack")
        chosen = attacks or [usual or next(iter(config["attacks"]), "")]
        cases = make_cases(workdir, config, strengths, records, chosen, count)
    curves = epsilon_curves.find(config, table, strengths)
    section = ""
    if curves:
        epsilon_curves.save(workdir, curves)
        section = (
            "<h2>Accuracy against ε</h2>"
            + text_page.picture(
                workdir / f"{epsilon_curves.NAME}.png", "Accuracy against ε, a panel a defense"
            )
            + text_page.render(epsilon_curves.to_markdown(curves))
        )
    if traced:
        if not count:
            raise InputError("traces are of the images of the gallery: --images must be at least 1")
        section += page_traces.section(workdir, config, records, traced, count)
    return page(config, table, strengths, environment, seconds, cases, curves=section)
