"use strict";
// Three columns in space: turned by dragging or with the arrow keys, projected without perspective.

const solid = {
  id: "solid",
  name: "Space",
  fits: () => T === 3,
  options: () => ternary.options(),
  turns: true,
  draw: drawSolid,
};

const turn = { around: -0.62, down: 0.42 }; // radians

// A point of the unit cube, seen from where the reader has turned it: x and y on the page, and its depth.
function project([a, b, c]) {
  const [x, y, z] = [a - 0.5, b - 0.5, c - 0.5];
  const [sin, cos] = [Math.sin(turn.around), Math.cos(turn.around)];
  const [up, flat] = [Math.sin(turn.down), Math.cos(turn.down)];
  const across = x * cos - y * sin;
  const away = x * sin + y * cos;
  return { across, up: z * flat + away * up, depth: away * flat - z * up };
}

function drawSolid(canvas) {
  const columns = [state.x, state.y, state.third];
  const runs = shownRuns();
  const scale = columns.map((column) =>
    d3.scaleLinear(domain(runs.flatMap((run) => run.values[column]), 0.04), [0, 1]));
  const size = Math.min(canvas.width * 0.55, canvas.height * 0.62);
  const place = (corner) => {
    const seen = project(corner);
    return { x: canvas.width / 2 + seen.across * size, y: canvas.height / 2 - seen.up * size, depth: seen.depth };
  };
  place.width = canvas.width;
  drawCube(canvas.g, place, columns, scale);
  const hits = [];
  for (const run of runs) {
    const at = d3.range(run.rays.length)
      .filter((ray) => columns.every((column) => value(run, column, ray) !== null))
      .map((ray) => ({ run, ray, ...place(columns.map((column, i) => scale[i](value(run, column, ray)))) }));
    if (at.length > 2) drawSheet(canvas.g, run, at);
    drawPoints(canvas.g, run, d3.sort(at, (p) => -p.depth), 50);
    hits.push(...at);
  }
  return { hits, mark: (g, run, ray) => hits.filter((at) => at.run === run && at.ray === ray).forEach((at) => drawRing(g, at)) };
}

// Neighbours on the triangle of preferences make a sheet; far triangles first.
function drawSheet(g, run, at) {
  const shape = triangle(0, 0, 1);
  const flat = at.map((p) => shape.place(run.rays[p.ray]));
  const { triangles } = d3.Delaunay.from(flat, (p) => p.x, (p) => p.y);
  const faces = d3.range(triangles.length / 3).map((i) => [0, 1, 2].map((k) => at[triangles[3 * i + k]]));
  g.append("g").selectAll("path").data(d3.sort(faces, (face) => -d3.mean(face, (p) => p.depth))).join("path")
    .attr("d", (face) => `M${face.map((p) => [p.x, p.y]).join("L")}Z`)
    .attr("fill", (face) => (state.colour === "preference" ? preferenceColour([0, 1, 2].map((t) => d3.mean(face, (p) => run.rays[p.ray][t]))) : groupColour(run.group)))
    .attr("fill-opacity", 0.22).attr("stroke", "var(--card)").attr("stroke-width", 0.6);
}

function drawCube(g, place, columns, scale) {
  const ends = [0, 1];
  const edges = [0, 1, 2].flatMap((axis) =>
    ends.flatMap((p) => ends.map((q) => ends.map((along) => {
      const corner = [p, q];
      corner.splice(axis, 0, along);
      return corner;
    }))));
  g.append("g").selectAll("line").data(edges).join("line").attr("class", "frame")
    .attr("x1", ([a]) => place(a).x).attr("y1", ([a]) => place(a).y)
    .attr("x2", ([, b]) => place(b).x).attr("y2", ([, b]) => place(b).y);
  columns.forEach((column, axis) => labelAxis(g, outerEdge(edges.slice(4 * axis, 4 * axis + 4), place, axis), place, column, scale[axis]));
}

// Of the four edges along an axis the one at the rim of the picture: leftmost for the upright axis, else lowest.
function outerEdge(edges, place, axis) {
  const middle = ([low, high]) => ({ x: (place(low).x + place(high).x) / 2, y: (place(low).y + place(high).y) / 2 });
  return d3.least(edges, (edge) => (axis === 2 ? middle(edge).x : -middle(edge).y));
}

function labelAxis(g, edge, place, column, scale) {
  const centre = place([0.5, 0.5, 0.5]);
  const [low, high] = edge.map(place);
  const middle = { x: (low.x + high.x) / 2, y: (low.y + high.y) / 2 };
  const out = Math.hypot(middle.x - centre.x, middle.y - centre.y) || 1;
  const [dx, dy] = [(middle.x - centre.x) / out, (middle.y - centre.y) / out];
  const { label, factor, task } = data.columns[column];
  const anchor = Math.abs(dx) < 0.35 ? "middle" : dx < 0 ? "end" : "start";
  const text = g.append("text").attr("x", middle.x + dx * 30).attr("y", middle.y + dy * 34 + 4).attr("text-anchor", anchor)
    .style("font-weight", 600).text(label);
  if (task !== null) text.style("fill", taskColour(task));
  const wide = label.length * 6.9;
  const room = { end: [wide + 4, Infinity], middle: [wide / 2 + 4, place.width - wide / 2 - 4], start: [0, place.width - wide - 4] }[anchor];
  text.attr("x", Math.max(room[0], Math.min(room[1], middle.x + dx * 30)));
  [low, high].forEach((at, i) => g.append("text").attr("class", "small").attr("text-anchor", "middle")
    .attr("x", at.x * 0.9 + middle.x * 0.1 + dx * 16).attr("y", at.y * 0.9 + middle.y * 0.1 + dy * 16 + 4)
    .text(compact(+(scale.domain()[i] * factor).toPrecision(3))));
}

function turnBy(around, down) {
  turn.around += around;
  turn.down = Math.max(-1.4, Math.min(1.4, turn.down + down));
  changes.call("figure");
}
