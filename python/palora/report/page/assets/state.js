"use strict";
// The data of the page (their form: palora/report/page/data.py) and what the reader has chosen. Whoever shows
// something listens to `changes`; nothing else is shared between the scripts.

const data = JSON.parse(document.getElementById("data").textContent);
const T = data.tasks.length;

const state = {
  run: Math.max(0, data.runs.findIndex((run) => run.rays.length > 1)), // the run under the dial
  ray: 0, // its evaluated ray
  wish: [], // the preference that was asked for; the ray is the nearest evaluated one
  hidden: new Set(), // groups that are switched off
  view: null,
  x: data.axes[0],
  y: data.axes[1 % data.axes.length],
  third: data.axes[2 % data.axes.length],
  colour: new Set(data.runs.flatMap((run) => (run.rays.length > 1 ? [run.group] : []))).size > 1 ? "method" : "preference",
  volume: false, // whether the hypervolume is shaded
  bounds: new Map(), // column → [least, most] that passes, in the units of the data
};

// ray: the dial moved; run: another run is under the dial; figure: draw the figure anew; filter: bounds changed
const changes = d3.dispatch("ray", "run", "figure", "filter");

const activeRun = () => data.runs[state.run];
const shownRuns = () => data.runs.filter((run) => !state.hidden.has(run.group));
const value = (run, column, ray) => run.values[column][ray]; // null where it is not a number
const several = (group) => data.runs.filter((run) => run.group === group).length > 1;

function setRay(ray, wish = null) {
  state.ray = ray;
  state.wish = wish ?? activeRun().rays[ray].slice();
  changes.call("ray");
}

function setWish(wish) {
  setRay(nearest(activeRun().rays, wish), wish);
}

function setRun(run, ray = null) {
  const before = state.wish;
  state.run = run;
  const own = activeRun().rays;
  state.ray = ray ?? (before.length ? nearest(own, before) : centreOf(own));
  state.wish = own[state.ray].slice();
  changes.call("run");
  changes.call("ray");
}

function nearest(rays, wish) {
  return d3.minIndex(rays, (ray) => d3.sum(ray, (weight, t) => (weight - wish[t]) ** 2));
}

function centreOf(rays) {
  return nearest(rays, Array(T).fill(1 / T));
}

function passes(run, ray) {
  for (const [column, [least, most]] of state.bounds) {
    const found = value(run, column, ray);
    if (found === null || found < least || found > most) return false;
  }
  return true;
}

// Groups whose runs were all evaluated at the same rays: only they have a mean and a band.
function sameRays(runs) {
  return runs.every(
    (run) =>
      run.rays.length === runs[0].rays.length &&
      run.rays.every((ray, i) => ray.every((weight, t) => Math.abs(weight - runs[0].rays[i][t]) < 1e-5)),
  );
}

function runsByGroup(runs) {
  return [...d3.group(runs, (run) => run.group)];
}
