"use strict";
// Three tasks: a map over the triangle of preferences for each chosen column, of the run under the dial.

const HEIGHT = Math.sqrt(3) / 2;
const CORNERS = [[0.5, 0], [0, HEIGHT], [1, HEIGHT]]; // of the tasks: top, left, right; y runs down

// A triangle of side `side` whose bounding box begins at (left, top).
function triangle(left, top, side) {
  return {
    corners: CORNERS.map(([x, y]) => [left + x * side, top + y * side]),
    place: (ray) => ({
      x: left + side * d3.sum(ray, (weight, t) => weight * CORNERS[t][0]),
      y: top + side * d3.sum(ray, (weight, t) => weight * CORNERS[t][1]),
    }),
    // The preference at a place; outside the triangle that of the nearest point on its edge, nearly.
    ray: (x, y) => {
      const u = (x - left) / side;
      const v = (y - top) / side;
      const first = 1 - v / HEIGHT;
      const third = u - first / 2;
      const weights = [first, 1 - first - third, third].map((weight) => Math.max(0, weight));
      const total = d3.sum(weights) || 1;
      return weights.map((weight) => weight / total);
    },
  };
}

const ternary = {
  id: "ternary",
  name: "Triangle",
  fits: () => T === 3 && data.runs.some((run) => run.rays.length > 2),
  options: () => [
    columnChoice("first", state.x, (column) => { state.x = column; changes.call("figure"); }),
    columnChoice("second", state.y, (column) => { state.y = column; changes.call("figure"); }),
    columnChoice("third", state.third, (column) => { state.third = column; changes.call("figure"); }),
  ],
  height: (width) => (width > 560 ? width / 3 + 90 + controlsRoom() : 3 * (Math.min(width, 260) + 70 + controlsRoom())),
  draw: drawTernary,
};

function drawTernary(canvas) {
  const chosen = [...new Set([state.x, state.y, state.third])];
  const beside = canvas.width > 560;
  const across = beside ? canvas.width / chosen.length : canvas.width;
  const down = beside ? canvas.height : canvas.height / chosen.length;
  const side = Math.min(across - 34, (down - 100 - controlsRoom()) / HEIGHT, 340);
  const run = activeRun();
  const maps = chosen.map((column, i) => {
    const left = (beside ? i * across : 0) + (across - side) / 2;
    const top = (beside ? 0 : i * down) + 44;
    return drawMap(canvas, run, column, triangle(left, top, side), { left, top, side, id: `clip-${i}` });
  });
  return {
    hits: maps.flatMap((map) => map.hits),
    mark: (g, marked, ray) => { if (marked === run) maps.forEach((map) => drawRing(g, map.at[ray])); },
  };
}

function drawMap(canvas, run, column, shape, { left, top, side, id }) {
  const { factor, label, high } = data.columns[column];
  const outline = `M${shape.corners.join("L")}Z`;
  canvas.g.append("clipPath").attr("id", id).append("path").attr("d", outline);
  const shown = run.values[column].map((found) => (found === null ? null : found * factor));
  const [low, most] = d3.extent(shown.filter((found) => found !== null));
  const colour = d3.scaleSequential(high ? [most, low] : [low, most], d3.interpolateViridis); // dark is good
  const at = run.rays.map((ray, i) => ({ run, ray: i, ...shape.place(ray) }));
  const cells = d3.Delaunay.from(at, (p) => p.x, (p) => p.y).voronoi([left - 5, top - 5, left + side + 5, top + side + 5]);
  canvas.g.append("g").attr("clip-path", `url(#${id})`).selectAll("path").data(at).join("path")
    .attr("class", "cell").attr("d", (p) => cells.renderCell(p.ray))
    .attr("fill", (p) => (shown[p.ray] === null ? "var(--track)" : colour(shown[p.ray])))
    .attr("opacity", (p) => (passes(run, p.ray) ? 1 : 0.15));
  canvas.g.append("path").attr("class", "frame").attr("d", outline);
  canvas.g.append("g").selectAll("circle").data(at).join("circle")
    .attr("class", (p) => (run.nondominated[p.ray] ? "point" : "point dominated")).attr("data-ray", (p) => p.ray)
    .attr("cx", (p) => p.x).attr("cy", (p) => p.y).attr("r", 2.8).attr("stroke", "#fff").attr("stroke-width", 1)
    .attr("fill", (p) => (run.nondominated[p.ray] ? "#fff" : "none"));
  drawCorners(canvas.g, shape.corners);
  canvas.g.append("text").attr("class", "title").attr("x", left + side / 2).attr("y", top - 28).attr("text-anchor", "middle").text(label);
  const below = { x: left + side * 0.12, y: top + side * HEIGHT + 30, width: side * 0.76 };
  drawScale(canvas.g, colour, [low, most], below);
  drawControls(canvas.g, column, below);
  return { hits: at, at };
}

function drawCorners(g, corners) {
  corners.forEach(([x, y], t) => {
    g.append("text").attr("x", x).attr("y", t ? y + 16 : y - 7).attr("text-anchor", ["middle", "start", "end"][t])
      .attr("dx", [0, -8, 8][t]).style("fill", taskColour(t)).style("font-weight", 650).text(data.tasks[t]);
  });
}

const controls = () => runsByGroup(shownRuns().filter((run) => run.rays.length === 1)).slice(0, 3);
const controlsRoom = () => 16 * controls().length;

// Single points have no place on the triangle: their values are written below.
function drawControls(g, column, { x, y, width }) {
  controls().forEach(([group, runs], i) => {
    const line = g.append("g").attr("transform", `translate(${x + width / 2},${y + 40 + 16 * i})`);
    const text = `${data.groups[group].slice(0, 24)} ${show(column, d3.mean(runs, (run) => value(run, column, 0)) ?? null)}`;
    line.append("path").attr("d", symbols(groupShape(group), 44)).attr("fill", groupColour(group)).attr("transform", `translate(${-text.length * 3.2 - 8},-4)`);
    line.append("text").attr("class", "small").attr("text-anchor", "middle").text(text);
  });
}

function drawScale(g, colour, [low, most], { x, y, width }) {
  const steps = 40;
  g.append("g").selectAll("rect").data(d3.range(steps)).join("rect")
    .attr("x", (i) => x + (i * width) / steps).attr("y", y).attr("width", width / steps + 0.6).attr("height", 7)
    .attr("fill", (i) => colour(low + ((most - low) * (i + 0.5)) / steps));
  [[low, "start", x], [most, "end", x + width]].forEach(([found, anchor, place]) =>
    g.append("text").attr("class", "small").attr("x", place).attr("y", y + 20).attr("text-anchor", anchor).text(compact(found)));
}
