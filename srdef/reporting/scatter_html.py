"""Figure 1 as one HTML file: turn it, zoom, point at a dot. No network, no library."""

import html
import json
from collections.abc import Sequence

from srdef.reporting.plots import PointSet

# Colours for light and dark pages come from the style sheet; the marks tell the sets apart without them.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #222; --faint: #bbb; --box: #fffffff0;
  --set0: #0072b2; --set1: #d55e00; --set2: #009e73; }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --ink: #e6e6e6; --faint: #555;
  --box: #24272df0; --set0: #56b4e9; --set1: #ff8a3c; --set2: #2fc79a; } }
body { margin: 0; font: 15px/1.4 system-ui, sans-serif; background: var(--page); color: var(--ink);
  display: flex; flex-direction: column; height: 100dvh; }
h1 { font-size: 1rem; margin: .6rem .8rem 0; }
#sets { margin: .3rem .8rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
#sets label { cursor: pointer; }
#plot { position: relative; flex: 1; min-height: 0; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none; cursor: grab; }
#tip { position: absolute; pointer-events: none; background: var(--box); border: 1px solid var(--faint);
  border-radius: 4px; padding: .2rem .5rem; font-size: .85rem; display: none; max-width: 16rem; }
p { margin: .2rem .8rem .6rem; font-size: .85rem; }
</style></head><body>
<h1>@TITLE@</h1>
<div id="sets"></div>
<div id="plot"><canvas aria-label="@TITLE@"></canvas><div id="tip"></div></div>
<p>Drag to turn, scroll or pinch to zoom, point at a dot to see which image it is and where its other
versions lie.</p>
<script>
"use strict";
const data = @DATA@;
const canvas = document.querySelector("canvas"), pen = canvas.getContext("2d");
const tip = document.getElementById("tip");
const shown = data.sets.map(() => true);
let turn = -0.9, tilt = 0.38, zoom = 1, hovered = null, dots = [];

data.sets.forEach((set, i) => {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox"; box.checked = true;
  box.onchange = () => { shown[i] = box.checked; draw(); };
  const mark = document.createElement("span");
  mark.textContent = " " + "●▲■"[i % 3] + " ";
  mark.style.color = `var(--set${i})`;
  label.append(box, mark, set.name);
  document.getElementById("sets").append(label);
});

// Centre and scale once: all axes alike, so that distances are those of the components.
const all = data.sets.flatMap(set => set.points);
const low = [0, 1, 2].map(k => Math.min(...all.map(p => p[k])));
const high = [0, 1, 2].map(k => Math.max(...all.map(p => p[k])));
const middle = low.map((v, k) => (v + high[k]) / 2);
const span = Math.max(...low.map((v, k) => high[k] - v)) || 1;
const unit = p => p.map((v, k) => (v - middle[k]) / span);

function project(p) {
  const [x, y, z] = unit(p), a = Math.cos(turn), b = Math.sin(turn), c = Math.cos(tilt), d = Math.sin(tilt);
  const side = a * x + b * y, away = -b * x + a * y;
  const depth = c * away - d * z;
  const size = Math.min(canvas.width, canvas.height) * 0.6 * zoom / (1 + 0.3 * depth);
  return [canvas.width / 2 + side * size, canvas.height / 2 - (d * away + c * z) * size, depth];
}
function line(p, q) {
  const [a, b] = [project(p), project(q)];
  pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0], b[1]); pen.stroke();
}
function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function draw() {
  const ratio = devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = box.width * ratio; canvas.height = box.height * ratio;
  pen.lineWidth = ratio; pen.font = `${12 * ratio}px system-ui, sans-serif`; pen.textAlign = "center";
  pen.strokeStyle = colour("--faint"); pen.fillStyle = colour("--ink");
  for (let corner = 0; corner < 8; corner++) {
    const p = [0, 1, 2].map(k => corner >> k & 1 ? high[k] : low[k]);
    for (let k = 0; k < 3; k++) if (!(corner >> k & 1)) {
      const q = p.slice(); q[k] = high[k]; line(p, q);
      if (corner === 0) {
        const half = p.slice(); half[k] = middle[k];
        const [x, y] = project(half); pen.fillText(data.axes[k], x, y + 14 * ratio);
      }
    }
  }
  const colours = data.sets.map((_, i) => colour(`--set${i}`));
  if (hovered) {
    pen.strokeStyle = colour("--ink");
    data.sets.forEach((set, i) => {
      if (i > 0 && shown[i]) line(data.sets[0].points[hovered.row], set.points[hovered.row]);
    });
  }
  dots = [];
  data.sets.forEach((set, i) => shown[i] && set.points.forEach((p, row) => {
    const [x, y, depth] = project(p); dots.push({x, y, depth, set: i, row});
  }));
  dots.sort((a, b) => b.depth - a.depth);
  for (const dot of dots) {
    const r = ratio * (hovered && hovered.row === dot.row ? 7 : 4.2) / (1 + 0.3 * dot.depth);
    pen.fillStyle = colours[dot.set]; pen.globalAlpha = 0.8;
    pen.beginPath();
    if (dot.set % 3 === 0) pen.arc(dot.x, dot.y, r, 0, 7);
    else if (dot.set % 3 === 1) {
      pen.moveTo(dot.x, dot.y - 1.2 * r); pen.lineTo(dot.x + 1.1 * r, dot.y + r);
      pen.lineTo(dot.x - 1.1 * r, dot.y + r);
    } else pen.rect(dot.x - r, dot.y - r, 2 * r, 2 * r);
    pen.fill(); pen.globalAlpha = 1;
  }
}
const fingers = new Map();
canvas.onpointerdown = e => { canvas.setPointerCapture(e.pointerId); fingers.set(e.pointerId, e); };
canvas.onpointerup = canvas.onpointercancel = e => fingers.delete(e.pointerId);
canvas.onpointermove = e => {
  const before = fingers.get(e.pointerId);
  if (before) {
    const others = [...fingers.values()].filter(f => f.pointerId !== e.pointerId);
    if (others.length) {
      const far = f => Math.hypot(f.clientX - others[0].clientX, f.clientY - others[0].clientY);
      zoom *= far(e) / (far(before) || 1);
    } else {
      turn -= (e.clientX - before.clientX) * 0.01;
      tilt = Math.max(-1.55, Math.min(1.55, tilt + (e.clientY - before.clientY) * 0.01));
    }
    fingers.set(e.pointerId, e);
  }
  const box = canvas.getBoundingClientRect(), ratio = devicePixelRatio || 1;
  const x = (e.clientX - box.left) * ratio, y = (e.clientY - box.top) * ratio;
  hovered = null;
  for (const dot of dots) if (Math.hypot(dot.x - x, dot.y - y) < 9 * ratio) hovered = dot;
  draw();
  tip.style.display = hovered ? "block" : "none";
  if (hovered) {
    const set = data.sets[hovered.set];
    tip.textContent = `${data.names[hovered.row]}: ${set.name}, classified as ${set.answers[hovered.row]}`;
    tip.style.left = Math.max(0, Math.min(e.clientX - box.left + 12, box.width - tip.offsetWidth)) + "px";
    tip.style.top = e.clientY - box.top + 14 + "px";
  }
};
canvas.onpointerleave = () => { hovered = null; tip.style.display = "none"; draw(); };
canvas.onwheel = e => { e.preventDefault(); zoom *= Math.exp(-e.deltaY * 0.001); draw(); };
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
</script></body></html>
"""


def scatter_page(
    sets: Sequence[PointSet],
    answers: Sequence[Sequence[str]],
    names: Sequence[str],
    axes: Sequence[str],
    title: str,
) -> str:
    """An HTML page with up to three sets of points that can be turned.

    Parameters
    ----------
    sets : up to three sets of points
        Row i of each is a version of the same image i.
    answers : for each set, what the classifier says of each image
    names : sequence of str
        Of the images.
    axes : three names
    title : str

    Returns
    -------
    str
        Works from a file, without a network.
    """
    data = {
        "names": list(names),
        "axes": list(axes),
        "sets": [
            {"name": points.name, "points": points.points.round(4).tolist(), "answers": list(said)}
            for points, said in zip(sets, answers, strict=True)
        ],
    }
    # "<" could end the script; JSON has another way to write it.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return _PAGE.replace("@TITLE@", html.escape(title)).replace("@DATA@", text)
