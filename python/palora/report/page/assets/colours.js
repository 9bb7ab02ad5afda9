"use strict";
// One language of colours: a task has a colour, a preference is a mixture of them, a group of runs has another set.

const TASK_COLOURS = ["#3478e0", "#e2562b", "#279a5b", "#9558dc", "#b58900", "#1397ab", "#d6559d", "#7a7f87"];
const GROUP_COLOURS = 8; // --g0 … --g7 in page.css, which differ between light and dark
const GROUP_SHAPES = [
  d3.symbolCircle, d3.symbolDiamond, d3.symbolTriangle, d3.symbolSquare, d3.symbolStar, d3.symbolCross, d3.symbolWye,
];

const taskColour = (task) => TASK_COLOURS[task % TASK_COLOURS.length];
const groupColour = (group) => `var(--g${group % GROUP_COLOURS})`;
const groupShape = (group) => GROUP_SHAPES[group % GROUP_SHAPES.length];

// Up to three tasks a mixture; of more the favourite's colour, as a mixture of many is grey.
function preferenceColour(ray) {
  if (T > 3) return taskColour(d3.maxIndex(ray));
  const parts = ray.map((weight, t) => [weight, d3.lab(taskColour(t))]);
  const mixed = (key) => d3.sum(parts, ([weight, colour]) => weight * colour[key]);
  return d3.lab(mixed("l"), mixed("a"), mixed("b")).formatHex();
}

function pointColour(run, ray) {
  const prefers = state.colour === "preference" && run.rays.length > 1;
  return prefers ? preferenceColour(run.rays[ray]) : groupColour(run.group);
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const themeChoice = {
  read: () => {
    try { return localStorage.getItem("palora-theme") ?? ""; } catch { return ""; } // no storage for some files
  },
  use: (theme) => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    try { localStorage.setItem("palora-theme", theme); } catch { /* then it is not remembered */ }
  },
};
