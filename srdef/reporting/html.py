"""What all HTML reports share: one file with style, script and pictures in it, and no network needed."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from srdef import images
from srdef.errors import InputError
from srdef.evaluation.plain_data import other_than


def read_text(workdir: Path, name: str, script: str = "evaluate") -> str:
    """A file that a script has left; InputError if it is not there or no text."""
    path = workdir / name
    if not path.is_file():
        raise InputError(f"no finished run in {workdir} ({name} is missing): run srdef {script}")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise damaged(path, script, error) from None


def damaged(path: Path, script: str, error: Exception) -> InputError:
    """The error of a file that a script has left and that cannot be read, in one line."""
    return InputError(f"{path} is damaged ({' '.join(str(error).split())}): run srdef {script} again")


def read_json(workdir: Path, name: str, script: str = "evaluate", kind: Any = dict) -> Any:
    """The content of a JSON file that a script has left.

    Parameters
    ----------
    workdir, name : Path, str
    script : str
        The command that writes it.
    kind : type, or dictionary or list of kinds
        What it must be, as `check_kind` takes it.

    Raises
    ------
    InputError
        Names the file, if it is not there, damaged, or of another kind.
    """
    text = read_text(workdir, name, script)
    try:
        content = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise damaged(workdir / name, script, error) from None
    check_kind(workdir / name, script, content, kind)
    return content


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def check_kind(path: Path, script: str, content: Any, kind: Any) -> None:
    """InputError that names the file `path` unless its content is of a kind.

    For kinds see `srdef.evaluation.plain_data.other_than`.
    """
    if problem := other_than(kind, content, "its content"):
        raise damaged(path, script, ValueError(problem))


def encode(pixels: np.ndarray) -> str:
    """An image as a data address, bit for bit in 8 bits: a perturbation is smaller than what JPEG changes."""
    file = io.BytesIO()
    Image.fromarray(images.to_uint8(pixels)).save(file, format="webp", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def facts(rows: Mapping[str, Any]) -> str:
    """A table of names and values; lists and dictionaries with commas."""
    cells = (f"<tr><th scope=row>{escape(k)}</th><td>{escape(_words(v))}</td></tr>" for k, v in rows.items())
    return f"<table class=facts><tbody>{''.join(cells)}</tbody></table>"


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    if isinstance(value, dict):
        inner = {name: f"({_words(v)})" if isinstance(v, dict) else _words(v) for name, v in value.items()}
        return ", ".join(f"{name} {text}" for name, text in inner.items())
    return str(value)


def document(title: str, sections: Sequence[str], config: Mapping[str, Any]) -> str:
    """A whole page: the sections (HTML) under the title, and the configuration at the end."""
    text = escape(json.dumps(config, indent=1, ensure_ascii=False))
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            *sections,
            f"<details><summary>configuration</summary><pre>{text}</pre></details>",
        ]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{body}</main>"
        f"<script>{_SCRIPT}</script></body></html>\n"
    )


_STYLE = """
:root{color-scheme:light dark;--page:#fff;--ink:#1d1f23;--soft:#5b6068;--line:#d5d8dd;--card:#f5f6f8;
--right:#00704f;--wrong:#b53600;--c0:#666;--c1:#0072b2;--c2:#c25500;--c3:#00805e;--c4:#a8487f;--c5:#8a6100}
@media (prefers-color-scheme:dark){:root{--page:#15171b;--ink:#e7e8ea;--soft:#a2a8b1;--line:#3a3f47;
--card:#1f2228;--right:#3ccf9b;--wrong:#ff9061;--c0:#aaa;--c1:#56b4e9;--c2:#ff9a4d;--c3:#35cfa0;--c4:#e59ac6;
--c5:#e0b74a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.2;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2rem 0 .5rem}
h3{font-size:.95rem;margin:0 0 .4rem}p{color:var(--soft);max-width:46rem;font-size:.92rem}
.lead{color:var(--ink);font-size:1rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
td b,td small,td .paper{display:block}td small,.paper{color:var(--soft);font-size:.78rem}
.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:.8rem}
.card,.case{background:var(--card);border-radius:.5rem;padding:.8rem;margin:0}
.row{display:grid;grid-template-columns:7rem 1fr 1.9rem;gap:.6rem;align-items:center;font-size:.85rem;
line-height:1.9}
.row>span:first-child{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}.row b{text-align:right}
.track{position:relative;height:1px;background:var(--line)}
.track i{position:absolute}
.bar{height:.5rem;top:-.22rem;background:var(--colour);opacity:.35;border-radius:.25rem}
.dot{width:.62rem;height:.62rem;margin-left:-.31rem;top:-.29rem;border-radius:50%;background:var(--colour)}
.tick{width:2px;height:1rem;top:-.5rem;background:var(--ink)}
.c0{--colour:var(--c0)}.c1{--colour:var(--c1)}.c2{--colour:var(--c2)}.c3{--colour:var(--c3)}
.c4{--colour:var(--c4)}.c5{--colour:var(--c5)}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:.8rem}
.frame{position:relative;aspect-ratio:1;overflow:hidden;border-radius:.3rem;--cut:50%}
.frame img{position:absolute;inset:0;width:100%;height:100%}
.frame .over{clip-path:inset(0 0 0 var(--cut))}
.edge{position:absolute;top:0;bottom:0;left:var(--cut);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 3px #000}
@media (hover:hover){.frame:hover .over{clip-path:none}.frame:hover .edge{display:none}}
.slider{width:100%;margin:.5rem 0 .2rem;accent-color:var(--c1)}
figcaption{font-size:.9rem}
.choices{display:flex;flex-wrap:wrap;gap:.35rem;margin-top:.5rem}
.choices label{flex:1 1 8rem;border:1px solid var(--line);border-radius:.35rem;padding:.25rem .5rem;
font-size:.85rem;cursor:pointer;line-height:1.35}
.choices label:has(:checked){border-color:var(--c1);outline:1px solid var(--c1)}
.choices input{margin:0 .4rem 0 0;accent-color:var(--c1)}
.choices span{display:block;font-size:.8rem}.right{color:var(--right)}.wrong{color:var(--wrong)}
.text td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
.text img{max-width:100%;background:#fff;border-radius:.4rem}
pre{overflow:auto;background:var(--card);padding:.8rem;border-radius:.4rem;font-size:.8rem}
summary{cursor:pointer}
"""

_SCRIPT = """
"use strict";
for (const card of document.querySelectorAll(".case")) {
  const frame = card.querySelector(".frame"), layers = [...frame.querySelectorAll("img")];
  card.querySelector(".slider").addEventListener("input", e =>
    frame.style.setProperty("--cut", e.target.value + "%"));
  card.querySelector(".choices").addEventListener("change", e =>
    layers.forEach((layer, i) => { if (i) layer.hidden = i !== Number(e.target.value); }));
}
"""
