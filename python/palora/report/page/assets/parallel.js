"use strict";
// One axis a task: a ray is a line, a brush on an axis keeps the lines that cross it. Better is always up.

let kindShown = "metrics"; // or "losses"

const parallel = {
  id: "parallel",
  name: "Parallel",
  fits: () => T > 1,
  options: () => {
    const metrics = data.axes.some((column) => data.columns[column].kind === "metric");
    const choices = ["metrics", "losses"].map((kind) => el("option", { value: kind, selected: kind === kindShown }, kind));
    return [
      metrics ? el("label", {}, "axes", el("select", {
        id: "axes", onchange: (event) => { kindShown = event.target.value; clearBounds(); changes.call("figure"); },
      }, ...choices)) : null,
      el("button", { type: "button", id: "clear", onclick: () => { clearBounds(); changes.call("figure"); } }, "Clear filter"),
    ].filter((option) => option);
  },
  draw: drawParallel,
};

const lossColumns = () => data.tasks.map((_, t) => data.columns.findIndex((column) => column.kind === "loss" && column.task === t));
const parallelColumns = () => (kindShown === "metrics" ? data.axes : lossColumns());

function clearBounds() {
  state.bounds.clear();
  changes.call("filter");
}

function drawParallel(canvas) {
  const columns = parallelColumns();
  const slanted = crowded(columns, canvas.width);
  const side = slanted ? 34 : Math.max(34, Math.min(80, d3.max(columns, (column) => data.columns[column].label.length) * 3.7));
  const box = { left: side, right: canvas.width - (slanted ? 52 : side), top: slanted ? 84 : 62, bottom: canvas.height - 30 };
  const x = d3.scalePoint(d3.range(columns.length), [box.left, box.right]);
  const runs = shownRuns();
  const y = columns.map((column) => {
    const [low, high] = d3.extent(runs.flatMap((run) => run.values[column].filter((found) => found !== null)));
    const ends = data.columns[column].high ? [low, high] : [high, low];
    return d3.scaleLinear(low === high ? [low - 1e-9, high + 1e-9] : ends, [box.bottom, box.top]);
  });
  const crossings = (run, ray) =>
    columns.map((column, i) => ({ run, ray, x: x(i), y: value(run, column, ray) === null ? null : y[i](value(run, column, ray)) }));
  const line = d3.line((at) => at.x, (at) => at.y).defined((at) => at.y !== null);
  const rays = runs.flatMap((run) => d3.range(run.rays.length).map((ray) => ({ run, ray, at: crossings(run, ray) })));
  const lines = canvas.g.append("g").selectAll("path").data(rays).join("path").attr("d", ({ at }) => line(at))
    .attr("fill", "none").attr("data-ray", ({ ray }) => ray)
    .attr("stroke", ({ run, ray }) => pointColour(run, ray))
    .attr("stroke-width", ({ run }) => (run.rays.length === 1 ? 2.4 : 1.2))
    .attr("stroke-dasharray", ({ run }) => (run.rays.length === 1 ? "6 3" : null));
  const fade = () => lines
    .attr("class", ({ run, ray }) => `ray${run.nondominated[ray] ? "" : " dominated"}${passes(run, ray) ? "" : " out"}`)
    .attr("opacity", ({ run, ray }) => (passes(run, ray) ? (run.nondominated[ray] ? 0.85 : 0.3) : 0.05));
  fade();
  changes.on("filter.parallel", fade);
  drawTaskAxes(canvas, columns, x, y, box, slanted);
  return {
    hits: rays.filter(({ run, ray }) => passes(run, ray)).flatMap(({ at }) => at.filter((p) => p.y !== null)),
    mark: (g, run, ray) => {
      const seeds = runs.filter((other) => other.group === run.group);
      if (seeds.length > 1 && sameRays(seeds)) drawSpread(g, run.group, seeds.map((seed) => crossings(seed, ray)));
      for (const name of ["marker-halo", "marker"]) g.append("path").attr("class", name).attr("d", line(crossings(run, ray)));
    },
  };
}

// Where the seeds of a group lie at the preference of the dial.
function drawSpread(g, group, seeds) {
  const heights = (i) => seeds.map((at) => at[i].y).filter((y) => y !== null);
  const band = d3.area((i) => seeds[0][i].x, (i) => d3.min(heights(i)), (i) => d3.max(heights(i))).defined((i) => heights(i).length > 0);
  g.append("path").attr("class", "band").attr("d", band(d3.range(seeds[0].length))).attr("fill", groupColour(group)).attr("fill-opacity", 0.3);
}

// Whether the labels do not fit side by side: then the tasks' names stand aslant.
function crowded(columns, width) {
  const longest = d3.max(columns, (column) => data.columns[column].label.length);
  return (width - longest * 7.4) / Math.max(1, columns.length - 1) < longest * 7.4;
}

function drawTaskAxes(canvas, columns, x, y, box, slanted) {
  columns.forEach((column, i) => {
    const { factor, label, task } = data.columns[column];
    const axis = canvas.g.append("g").attr("transform", `translate(${x(i)},0)`);
    axis.append("line").attr("y1", box.top).attr("y2", box.bottom).attr("stroke", taskColour(task ?? i)).attr("stroke-width", 2);
    const [worst, best] = y[i].domain().map((found) => compact(+(found * factor).toPrecision(3)));
    axis.append("text").attr("class", "small").attr("y", box.top - 8).attr("text-anchor", "middle").text(best);
    axis.append("text").attr("class", "small").attr("y", box.bottom + 16).attr("text-anchor", "middle").text(worst);
    const name = axis.append("text").attr("y", box.top - 26).style("fill", taskColour(task ?? i)).style("font-weight", 600)
      .text(slanted ? data.tasks[task ?? i] : label);
    if (slanted) name.attr("transform", `rotate(-38,0,${box.top - 26})`).attr("x", -6);
    else name.attr("text-anchor", "middle");
    addBrush(axis, column, y[i], box);
  });
}

// Filtering by eye; `bounds` in figure.js does the same by numbers.
function addBrush(axis, column, scale, box) {
  const brush = d3.brushY().extent([[-14, box.top], [14, box.bottom]]).on("brush end", (event) => {
    if (!event.sourceEvent) return;
    if (event.selection) state.bounds.set(column, d3.sort(event.selection.map(scale.invert)));
    else state.bounds.delete(column);
    changes.call("filter");
  });
  const g = axis.append("g").attr("class", "brush").attr("data-column", column).call(brush);
  const bound = state.bounds.get(column);
  const height = (found) => (Number.isFinite(found) ? Math.max(box.top, Math.min(box.bottom, scale(found))) : box.top);
  if (bound) g.call(brush.move, d3.sort(bound.map(height))); // "at least" and "at most" have no end on the better side
}
