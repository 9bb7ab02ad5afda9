"use strict";
// Axes, domains and points that the views have in common.

const symbols = (shape, size) => d3.symbol(shape, size)();

// The extent of values with some room; null where there are none.
function domain(values, room = 0.07) {
  const [low, high] = d3.extent(values.filter((found) => found !== null));
  if (low === undefined) return [0, 1];
  const pad = (high - low || Math.abs(high) || 1) * room;
  return [low - pad, high + pad];
}

// Axes around `box` {left, top, right, bottom} with a grid behind; labels carry the unit and an arrow to what is better.
function drawAxes(g, box, x, y, xLabel, yLabel, whole = false) {
  const width = box.right - box.left;
  const height = box.bottom - box.top;
  const across = Math.max(2, Math.min(7, Math.floor(width / 75)));
  const down = Math.max(2, Math.min(7, Math.floor(height / 45)));
  const ticks = x.ticks(across).filter((tick) => !whole || Number.isInteger(tick));
  g.append("g").selectAll("line").data(ticks).join("line").attr("class", "grid")
    .attr("x1", x).attr("x2", x).attr("y1", box.top).attr("y2", box.bottom);
  g.append("g").selectAll("line").data(y.ticks(down)).join("line").attr("class", "grid")
    .attr("y1", y).attr("y2", y).attr("x1", box.left).attr("x2", box.right);
  g.append("g").attr("class", "axis").attr("transform", `translate(0,${box.bottom})`)
    .call(d3.axisBottom(x).tickValues(ticks).tickFormat(whole ? d3.format("d") : x.tickFormat(across)).tickSizeOuter(0).tickPadding(6).tickSize(0));
  g.append("g").attr("class", "axis").attr("transform", `translate(${box.left},0)`)
    .call(d3.axisLeft(y).ticks(down).tickSizeOuter(0).tickPadding(6).tickSize(0));
  g.append("text").attr("x", box.right).attr("y", box.bottom + 36).attr("text-anchor", "end").text(xLabel);
  g.append("text").attr("x", box.left - 34 < 4 ? 4 : box.left - 40).attr("y", box.top - 10).text(yLabel);
}

// One symbol a ray: filled, hollow where another ray of its run dominates it, faint where a filter leaves it out.
function drawPoints(g, run, places, size = 62) {
  const path = symbols(groupShape(run.group), run.rays.length === 1 ? size * 2 : size);
  g.append("g").selectAll("path").data(places).join("path")
    .attr("class", (at) => (run.nondominated[at.ray] ? "point" : "point dominated"))
    .attr("data-ray", (at) => at.ray)
    .attr("d", path)
    .attr("transform", (at) => `translate(${at.x},${at.y})`)
    .attr("fill", (at) => (run.nondominated[at.ray] ? pointColour(run, at.ray) : "var(--card)"))
    .attr("stroke", (at) => (run.nondominated[at.ray] ? "var(--card)" : pointColour(run, at.ray)))
    .attr("stroke-width", (at) => (run.nondominated[at.ray] ? 0.8 : 1.6))
    .attr("opacity", (at) => (passes(run, at.ray) ? 1 : 0.12));
}

// A ring around a place, on a halo so that it shows on any colour.
function drawRing(g, { x, y }, radius = 10) {
  for (const name of ["marker-halo", "marker"]) {
    g.append("circle").attr("class", name).attr("cx", x).attr("cy", y).attr("r", radius);
  }
}

// A select for a column: a label in words and the columns by name.
function columnChoice(text, chosen, onchange, allowed = () => true) {
  const options = data.columns.flatMap((column, i) =>
    allowed(column) ? [el("option", { value: i, selected: i === chosen }, column.name)] : []);
  return el("label", {}, text, el("select", { onchange: (event) => onchange(+event.target.value) }, ...options));
}
