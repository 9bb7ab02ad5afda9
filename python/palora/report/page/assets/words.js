"use strict";
// Numbers and names as they are read, and elements whose content is always text.

const minus = (text) => text.replace("-", "−");

// A value of a column with its unit: accuracies in per cent.
function show(column, found) {
  if (found === null || found === undefined) return "–";
  const { factor } = data.columns[column];
  return factor === 100 ? `${minus((found * 100).toFixed(2))} %` : compact(found);
}

function compact(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return minus(d3.format(".3~e")(number));
  return minus(d3.format(size >= 1000 ? ",.0f" : ".4")(number));
}

const weightText = (weight) => weight.toFixed(2).replace("-", "−");

// Of many tasks only those that count.
function rayText(ray) {
  const parts = ray.map((weight, t) => [weight, `${data.tasks[t]} ${weightText(weight)}`]);
  const counting = T > 3 ? parts.filter(([weight]) => Math.abs(weight) >= 0.005) : parts;
  return counting.sort((a, b) => (T > 3 ? b[0] - a[0] : 0)).map(([, text]) => text).join(" · ");
}

const plainRay = (ray) => ray.map((weight) => +weight.toFixed(6)).join(",");

function seconds(time) {
  if (time === null) return "–";
  if (time < 60) return `${time.toFixed(1)} s`;
  return time < 5400 ? `${(time / 60).toFixed(1)} min` : `${(time / 3600).toFixed(1)} h`;
}

const gibibytes = (bytes) => (bytes === null ? "–" : `${(bytes / 2 ** 30).toFixed(2)} GiB`);

function runName(run) {
  return several(run.group) ? `${data.groups[run.group]}, seed ${run.seed}` : data.groups[run.group];
}

// el("td", {class: "number"}, "text", child): attributes as given, content as text.
function el(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, found] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), found);
    else if (found !== null && found !== false) made.setAttribute(key, found === true ? "" : found);
  }
  made.append(...content.filter((part) => part !== null));
  return made;
}

const byId = (id) => document.getElementById(id);
