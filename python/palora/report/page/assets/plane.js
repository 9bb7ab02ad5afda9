"use strict";
// Two columns against each other: points; for two tasks lines in the order of the preference and bands over seeds.

const plane = {
  id: "plane",
  name: "Plane",
  fits: () => true,
  options: () => [
    columnChoice("across", state.x, (column) => { state.x = column; changes.call("figure"); }),
    columnChoice("up", state.y, (column) => { state.y = column; changes.call("figure"); }),
    el("label", {}, el("input", {
      type: "checkbox", id: "volume", checked: state.volume,
      onchange: (event) => { state.volume = event.target.checked; changes.call("figure"); },
    }), "hypervolume"),
  ],
  draw: drawPlane,
};

function drawPlane(canvas) {
  const box = { left: 58, top: 34, right: canvas.width - 12, bottom: canvas.height - 46 };
  const runs = shownRuns();
  const factor = (column) => data.columns[column].factor;
  const corner = state.volume ? referenceCorner() : null;
  const all = (column) => runs.flatMap((run) => run.values[column].filter((v) => v !== null).map((v) => v * factor(column)));
  const x = d3.scaleLinear(domain([...all(state.x), ...(corner ? [corner[0]] : [])]), [box.left, box.right]);
  const y = d3.scaleLinear(domain([...all(state.y), ...(corner ? [corner[1]] : [])]), [box.bottom, box.top]);
  drawAxes(canvas.g, box, x, y, data.columns[state.x].label, data.columns[state.y].label);

  const places = (run) =>
    d3.range(run.rays.length)
      .filter((ray) => value(run, state.x, ray) !== null && value(run, state.y, ray) !== null)
      .map((ray) => ({
        run, ray, x: x(value(run, state.x, ray) * factor(state.x)), y: y(value(run, state.y, ray) * factor(state.y)),
      }));
  if (corner) drawVolume(canvas.g, places(activeRun()), { x: x(corner[0]), y: y(corner[1]) });
  const hits = [];
  for (const [group, members] of runsByGroup(runs)) {
    if (T === 2 && members[0].rays.length > 1) drawCurves(canvas.g, group, members, places);
    for (const run of members) {
      drawPoints(canvas.g, run, places(run), members.length > 1 ? 34 : 66);
      hits.push(...places(run));
    }
  }
  return { hits, mark: (g, run, ray) => places(run).filter((at) => at.ray === ray).forEach((at) => drawRing(g, at)) };
}

// A line through each run, or the mean of the seeds in a band that covers all of them.
function drawCurves(g, group, members, places) {
  const line = d3.line((at) => at.x, (at) => at.y);
  const inOrder = (run) => places(run).sort((a, b) => run.rays[b.ray][0] - run.rays[a.ray][0]);
  const lines = members.map(inOrder);
  const banded = members.length > 1 && sameRays(members) && lines.every((at) => at.length === lines[0].length);
  if (banded) {
    const hulls = d3.pairs(d3.range(lines[0].length)).map((pair) =>
      d3.polygonHull(pair.flatMap((i) => lines.map((at) => [at[i].x, at[i].y]))));
    g.append("path").attr("class", "band").attr("fill", groupColour(group)).attr("fill-opacity", 0.16)
      .attr("d", hulls.filter((hull) => hull).map((hull) => `M${orient(hull).join("L")}Z`).join(""));
  }
  const mean = (i) => ({ x: d3.mean(lines, (at) => at[i].x), y: d3.mean(lines, (at) => at[i].y) });
  const drawn = banded ? [d3.range(lines[0].length).map(mean)] : lines;
  g.append("g").selectAll("path").data(drawn).join("path").attr("class", "front-line").attr("d", line)
    .attr("fill", "none").attr("stroke", groupColour(group)).attr("stroke-width", banded ? 2.2 : 1.4).attr("opacity", 0.75);
}

// All hulls turn the same way, so that where they overlap the band stays filled.
const orient = (hull) => (d3.polygonArea(hull) < 0 ? hull.slice().reverse() : hull);

// The reference of the hypervolume in the shown units, where the two columns are losses or accuracies of two tasks.
function referenceCorner() {
  const pair = [data.columns[state.x], data.columns[state.y]];
  if (pair.every((column) => column.kind === "loss")) return pair.map((column) => data.reference[column.task]);
  return pair.every((column) => column.factor === 100) ? [0, 0] : null;
}

// What the points dominate, up to the reference: the union of their rectangles.
function drawVolume(g, places, corner) {
  const path = places.map((at) => `M${at.x},${at.y}H${corner.x}V${corner.y}H${at.x}Z`);
  const turned = places.map((at) => ((corner.x - at.x) * (corner.y - at.y) < 0));
  g.append("path").attr("class", "volume").attr("fill", "var(--accent)").attr("fill-opacity", 0.1)
    .attr("d", path.filter((_, i) => turned[i] === turned[0]).join(""));
  g.append("path").attr("d", symbols(d3.symbolTimes, 60)).attr("transform", `translate(${corner.x},${corner.y})`)
    .attr("stroke", "var(--soft)").attr("stroke-width", 2);
  const left = corner.x > 200;
  g.append("text").attr("class", "small").attr("x", corner.x + (left ? -10 : 10)).attr("y", corner.y + (corner.y < 60 ? 16 : -8))
    .attr("text-anchor", left ? "end" : "start").text("reference");
}
