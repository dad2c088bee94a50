"""A page on which the weights of objectives are dragged and AUCs move.

The page has a sample of the test rows, with what each objective adds to the
score of a row, and ranks it anew for every position of the sliders.
"""

import base64
import json
import pathlib
from typing import Any
from typing import NamedTuple

import numpy as np

from experiments.runs import html as page
from experiments.runs import workdir as workdir_lib
from experiments.tradeoff import front as tradeoff_lib
from experiments.tradeoff import report as report

# Rows in the page, at most: what a browser ranks while a slider moves.
_MAX_ROWS = 6000
_LEVELS = 65_535
# Below this a term adds nothing, whatever the weights.
_LEAST_TERM = 1e-12


class Sample(NamedTuple):
  """Rows drawn from a test.

  Attributes:
    rows: `[n]` places.
    weights: `[n]` what each stands for: sums over it are near those of all.
  """

  rows: np.ndarray
  weights: np.ndarray


def draw(
    scores: np.ndarray, labels: np.ndarray, max_rows: int = _MAX_ROWS
) -> Sample:
  """Draws rows from which AUCs are estimated.

  A row is drawn with a chance that grows with its share of the positives, and
  of all rows, for each objective: every positive of a rare one is there. Rows
  of the same labels are drawn evenly along the scores, by which the AUC of the
  sample is near that of all rows, for these scores and for like ones.

  Args:
    scores: `[N]`.
    labels: `[N, M]` bool, or non-negative values, not all 0.
    max_rows: all rows if there are no more.
  """
  values = labels.astype(np.float64)
  num_rows = len(values)
  size = min(max_rows, num_rows)
  share = (values / values.sum(axis=0) + 1 / num_rows).sum(axis=1)
  # The factor with which the chances add up to the size.
  low, high = 0.0, size / share.min()
  for _ in range(60):
    factor = 0.5 * (low + high)
    is_short = np.minimum(factor * share, 1).sum() < size
    low, high = (factor, high) if is_short else (low, factor)
  chance = np.minimum(high * share, 1)
  order = np.lexsort((scores, *(values > 0).T))
  # Half a row in advance, and no row lost to rounding.
  steps = np.floor(np.cumsum(chance[order]) + 0.5 - 1e-6)
  rows = np.sort(order[np.diff(steps, prepend=0) > 0])
  return Sample(rows, 1 / chance[rows])


def write(
    path: pathlib.Path, tradeoff: tradeoff_lib.Tradeoff,
    terms: dict[str, np.ndarray], labels: np.ndarray,
) -> None:
  """Writes the page, one file.

  Args:
    path: where.
    tradeoff: whose points are shown.
    terms: by family, `[N, M]`: what the objectives add to a score, not
      negative. Those of the one network and of the closed form are used.
    labels: `[N, M]`.
  """
  sample = draw(terms[tradeoff_lib.ONE].sum(axis=1), labels)
  rounded = lambda values: np.round(values.astype(np.float64), 4)
  largest = labels.max(axis=0).astype(np.float64)
  content = workdir_lib.finite({
      "names": tradeoff.names, "weights": rounded(tradeoff.weights),
      "num_rows": tradeoff.num_rows,
      "points": [
          {"name": name, "color": report.COLORS[name],
           "auc": rounded(tradeoff.auc[tradeoff.families.index(name)])}
          for name in (tradeoff_lib.SEPARATE, tradeoff_lib.CLOSED_FORM,
                       tradeoff_lib.ONE)],
      "sample": {
          "weights": _base64(sample.weights.astype("<f4")),
          "labels": _base64(np.round(
              _LEVELS * (labels[sample.rows] / largest)).astype("<u2")),
          "terms": [_levels(terms[name][sample.rows]) for name in (
              tradeoff_lib.ONE, tradeoff_lib.CLOSED_FORM)]}})
  # No end of the script can stand in the data.
  data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
  page.write_page(path, "Trade-off", [
      _BODY, f'<script type="application/json" id="data">{data}</script>',
      f"<script>{_SCRIPT}</script>"])


def _levels(terms: np.ndarray) -> dict[str, Any]:
  """Terms `[n, M]` on a logarithmic scale of 2^16 levels."""
  logs = np.log(np.maximum(terms.astype(np.float64), _LEAST_TERM))
  low, step = logs.min(), max(np.ptp(logs) / _LEVELS, 1e-12)
  return {"low": low, "step": step,
          "levels": _base64(np.round((logs - low) / step).astype("<u2"))}


def _base64(values: np.ndarray) -> str:
  return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


_BODY = """<style>
#weights { display: grid; grid-template-columns: auto minmax(8em, 1fr) 3.4em
           minmax(12em, 2fr) 4.2em 4.6em 4.2em; gap: .25em .9em;
           align-items: center; font-variant-numeric: tabular-nums; }
#weights > * { min-width: 0; }
#weights .head { font-size: 12px; color: #666; align-self: end; }
#weights .number { text-align: right; }
#weights label { font-weight: 600; overflow-wrap: anywhere; }
#weights input { width: 100%; margin: 0; accent-color: #1f5fbf;
                 cursor: pointer; }
.scale { position: relative; height: 20px; background: linear-gradient(#ddd,
         #ddd) 0 50% / 100% 1px no-repeat; }
.scale i { position: absolute; top: 50%; transform: translate(-50%, -50%); }
.now { width: 14px; height: 14px; border-radius: 50%; background: #1f5fbf; }
.rival { width: 5px; height: 18px; background: #8a8a8a; }
.start { width: 12px; height: 12px; border-radius: 50%; border: 1.5px solid
         #1f5fbf; }
.up { color: #2a8a4a; } .down { color: #b3541e; }
.key span { margin-right: 1.2em; white-space: nowrap; }
.key i { display: inline-block; position: static; transform: none;
         vertical-align: middle; margin-right: .4em; box-sizing: border-box; }
#panel { max-width: 640px; }
#chart { display: block; width: 100%; overflow: visible; }
#chart text { font-size: 11px; fill: #666; }
#chart .point { cursor: pointer; }
#chart .point:focus { outline: none; stroke: #222; stroke-width: 2; }
#rows { overflow-x: auto; }
button, select { font: inherit; } small, .key { color: #666; }
@media (max-width: 760px) {
  #weights { grid-template-columns: auto 1fr 3em 4em 4.4em; }
  #weights .scale, #weights .of-rival, #weights .wide { display: none; }
}
</style>
<h1>What is each objective worth?</h1>
<p class="lead">Drag what an objective is worth: one network ranks the rows
anew, and every AUC moves. To see all fronts, open
<a href="report.html">report.html</a>.</p>
<div id="weights"></div>
<p class="key"><span><i class="now"></i>one network</span><span><i
class="start"></i>at equal weights</span><span><i class="rival"></i>closed form
at the same weights</span><button id="equal">Equal weights</button></p>
<h2>Two objectives</h2>
<p>A point is a vector of weights, measured on all test rows; click one to take
its weights. The large dot is where the sliders are.</p>
<div id="panel">
<p><label>up <select id="y"></select></label>
<label>across <select id="x"></select></label></p>
<svg id="chart" viewBox="0 0 640 400" role="group"
aria-label="AUC of two objectives"></svg>
<p class="key" id="legend"></p>
</div>
<h2>How far this can be trusted</h2>
<p id="trust"></p>
<div id="rows"><table id="exact"></table></div>
"""

_SCRIPT = r"""
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const element = (tag, name, text) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
};
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const names = data.names, size = names.length;
const objectives = names.map((_, m) => m);
const minus = text => text.replace("-", "\u2212");

// The sample: what each row stands for, its labels and its terms.
const rowWeights = new Float32Array(bytes(data.sample.weights));
const labels = new Uint16Array(bytes(data.sample.labels));
const count = rowWeights.length;
const terms = data.sample.terms.map(({low, step, levels}) =>
  Float64Array.from(new Uint16Array(bytes(levels)),
                    level => Math.exp(low + step * level)));

// Per objective, the weighted sum of label times centred rank. Rows of equal
// scores share a rank, as in the AUC that counts ties half.
function rankSums(scores, chosen) {
  const order = Uint32Array.from(scores, (_, row) => row).sort(
    (a, b) => scores[a] - scores[b]);
  const sums = new Float64Array(size);
  let total = 0, below = 0;
  for (const weight of rowWeights) total += weight;
  for (let first = 0, last; first < count; first = last) {
    let mass = 0;
    for (last = first; last < count &&
         scores[order[last]] === scores[order[first]]; last++)
      mass += rowWeights[order[last]];
    const rank = below + mass / 2 - total / 2;
    for (let k = first; k < last; k++) {
      const row = order[k];
      for (const m of chosen)
        sums[m] += rank * rowWeights[row] * labels[row * size + m];
    }
    below += mass;
  }
  return sums;
}
// By the labels themselves: the best there is.
const ideal = objectives.map(m => rankSums(
  Float64Array.from({length: count}, (_, row) => labels[row * size + m]),
  [m])[m]);

function aucs(family, weights) {
  const scores = new Float64Array(count), values = terms[family];
  for (let row = 0, at = 0; row < count; row++)
    for (let m = 0; m < size; m++) scores[row] += weights[m] * values[at++];
  const sums = rankSums(scores, objectives);
  return objectives.map(m => .5 + sums[m] / (2 * ideal[m]));
}

const equal = objectives.map(() => 1 / size);
const start = aucs(0, equal);
const startOfRival = aucs(1, equal);
let weights = equal, now = start, rival = startOfRival;

// The AUCs that any point has, with room at the ends.
const seen = data.points.flatMap(p => p.auc).flat().concat(start);
const least = Math.max(0, Math.floor(Math.min(...seen) * 20 - .4) / 20);
const most = Math.min(1, Math.ceil(Math.max(...seen) * 20 + .4) / 20);
const place = value => `${100 * Math.min(Math.max(
  (value - least) / (most - least), 0), 1)}%`;

for (const [text, name] of [
    ["", ""], ["worth", ""], ["", "number"],
    [`AUC from ${least.toFixed(2)} to ${most.toFixed(2)}`, "wide"],
    ["AUC", "number"], ["change", "number"],
    ["closed form", "number of-rival"]])
  byId("weights").append(element("div", `head ${name}`, text));
const rows = objectives.map(m => {
  const label = element("label", "", names[m]), slider = element("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = 1000;
  slider.id = label.htmlFor = `worth-${m}`;
  slider.addEventListener("input", () => {
    const values = rows.map(row => +row.slider.value);
    const sum = values.reduce((a, b) => a + b, 0);
    weights = sum ? values.map(value => value / sum) : equal;
    show();
  });
  const share = element("output", "number"), scale = element("div", "scale");
  share.htmlFor = slider.id;
  const marks = ["rival", "start", "now"].map(name => element("i", name));
  scale.append(...marks);
  const value = element("b", "number"), change = element("span", "number");
  const ofRival = element("small", "number of-rival");
  value.id = `auc-${m}`;
  byId("weights").append(label, slider, share, scale, value, change, ofRival);
  return {slider, share, marks, value, change, ofRival};
});

function take(taken) {
  weights = taken;
  // Equal ones in the middle, from where there is room to both sides.
  const top = weights.every(w => w === weights[0]) ? 500 : 1000;
  const largest = Math.max(...weights);
  rows.forEach(({slider}, m) => { slider.value = top * weights[m] / largest; });
  show();
}

function show() {
  now = aucs(0, weights);
  rival = aucs(1, weights);
  rows.forEach(({slider, share, marks, value, change, ofRival}, m) => {
    const moved = now[m] - start[m];
    share.textContent = `${(100 * weights[m]).toFixed(0)} %`;
    slider.setAttribute("aria-valuetext", share.textContent);
    marks[0].style.left = place(rival[m]);
    marks[1].style.left = place(start[m]);
    marks[2].style.left = place(now[m]);
    value.textContent = now[m].toFixed(3);
    change.textContent = Math.abs(moved) < 5e-4 ? "0"
      : (moved > 0 ? "+" : "") + minus(moved.toFixed(3));
    change.className = "number " + (
      Math.abs(moved) < 5e-4 ? "" : moved > 0 ? "up" : "down");
    ofRival.textContent = rival[m].toFixed(3);
  });
  move();
}

// One panel: what the points reach in two of the objectives.
const box = {left: 52, right: 630, top: 10, bottom: 356};
const make = (tag, attributes, text) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes))
    node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
};
for (const [id, chosen] of [["x", 0], ["y", size - 1]]) {
  names.forEach((name, m) => byId(id).add(new Option(name, m, false,
                                                     m === chosen)));
  byId(id).addEventListener("change", draw);
}
const about = w => w.map((value, m) => [value, names[m]])
  .filter(([value]) => value > .005).sort((a, b) => b[0] - a[0])
  .map(([value, name]) => `${(100 * value).toFixed(0)} % ${name}`).join(", ");
const mark = make("circle", {r: 8, fill: "#1f5fbf", stroke: "#fff",
                             "stroke-width": 2, "pointer-events": "none"});
const rivalMark = make("rect", {width: 10, height: 10, fill: "#8a8a8a",
                                stroke: "#fff", "pointer-events": "none"});
let ofX, ofY;

function draw() {
  const [x, y] = [+byId("x").value, +byId("y").value];
  const scale = (m, from, to) => {
    const values = data.points.flatMap(p => p.auc.map(row => row[m]));
    const low = Math.min(...values, start[m]);
    const high = Math.max(...values, start[m]);
    const room = .06 * (high - low || .1);
    return [v => from + (to - from) * (v - low + room) /
                 (high - low + 2 * room), low, high];
  };
  const [atX, x0, x1] = scale(x, box.left, box.right);
  const [atY, y0, y1] = scale(y, box.bottom, box.top);
  [ofX, ofY] = [v => atX(v[x]), v => atY(v[y])];
  const nodes = [
    make("path", {d: `M${box.left} ${box.top}V${box.bottom}H${box.right}`,
                  fill: "none", stroke: "#ccc"}),
    make("text", {x: (box.left + box.right) / 2, y: 394,
                  "text-anchor": "middle"}, `AUC of ${names[x]}`),
    make("text", {x: 12, y: (box.top + box.bottom) / 2,
                  "text-anchor": "middle", transform:
                  `rotate(-90 12 ${(box.top + box.bottom) / 2})`},
         `AUC of ${names[y]}`)];
  for (let k = 0; k <= 4; k++) {
    const a = x0 + (x1 - x0) * k / 4, b = y0 + (y1 - y0) * k / 4;
    nodes.push(make("text", {x: atX(a), y: 374, "text-anchor": "middle"},
                    a.toFixed(3)),
               make("text", {x: box.left - 6, y: atY(b) + 4,
                             "text-anchor": "end"}, b.toFixed(3)));
  }
  for (const {name, color, auc} of data.points)
    auc.forEach((row, k) => {
      const point = make("circle", {
        class: "point", cx: ofX(row), cy: ofY(row), r: k ? 5 : 7,
        fill: k ? color : "#fff", stroke: color, "stroke-width": k ? 0 : 2.5,
        "fill-opacity": .75, tabindex: 0, role: "button",
        "aria-label": `${name}: ${about(data.weights[k])}`});
      point.append(make("title", {}, `${name}: ${about(data.weights[k])}`));
      point.addEventListener("click", () => take(data.weights[k]));
      point.addEventListener("keydown", event => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        take(data.weights[k]);
      });
      nodes.push(point);
    });
  byId("chart").replaceChildren(...nodes, rivalMark, mark);
  move();
}

function move() {
  if (!ofX) return;
  mark.setAttribute("cx", ofX(now));
  mark.setAttribute("cy", ofY(now));
  rivalMark.setAttribute("x", ofX(rival) - 5);
  rivalMark.setAttribute("y", ofY(rival) - 5);
}

for (const {name, color} of data.points.toReversed()) {
  const entry = element("span"), dot = element("i");
  dot.style.cssText = `width: 10px; height: 10px; border-radius: 50%;
                       background: ${color}`;
  entry.append(dot, name);
  byId("legend").append(entry);
}
byId("legend").append(element("span", "", "rings: equal weights"));
byId("equal").addEventListener("click", () => take(equal));

byId("trust").textContent = count < data.num_rows
  ? `The AUCs beside the sliders are estimates from ` +
    `${count.toLocaleString("en")} of ` +
    `${data.num_rows.toLocaleString("en")} test rows, the points are of all ` +
    `rows. At equal weights:`
  : `All ${count.toLocaleString("en")} test rows are in this page. At equal ` +
    `weights:`;
const exact = name => data.points.find(p => p.name === name).auc[0];
for (const [header, values] of [
    ["", names], ["one network, here", start],
    ["one network, all rows", exact("one network")],
    ["closed form, here", startOfRival],
    ["closed form, all rows", exact("closed form")]]) {
  const line = element("tr");
  line.append(element(values === names ? "th" : "td", "", header),
              ...values.map(value => element(
                values === names ? "th" : "td", "",
                values === names ? value : value.toFixed(4))));
  byId("exact").append(line);
}
draw();
take(equal);
"""
