"use strict";
// Three tasks: a triangle on which the preference is a place. Dragged, or moved with the arrow keys.

function trianglePad(run) {
  const [width, height] = [320, 300];
  const shape = triangle(24, 24, width - 48);
  const svg = d3.create("svg").attr("class", "pad").attr("id", "preference").attr("viewBox", `0 0 ${width} ${height}`)
    .attr("tabindex", 0).attr("role", "application").attr("aria-roledescription", "triangle of preferences")
    .attr("aria-describedby", "ray").attr("aria-label", `Preference among ${data.tasks.join(", ")}: arrow keys move it, Home goes to the centre`);
  const places = run.rays.map((ray, i) => ({ ray: i, ...shape.place(ray) }));
  const cells = d3.Delaunay.from(places, (at) => at.x, (at) => at.y).voronoi([0, 0, width, height]);
  svg.append("clipPath").attr("id", "pad-clip").append("path").attr("d", `M${shape.corners.join("L")}Z`);
  svg.append("g").attr("clip-path", "url(#pad-clip)").selectAll("path").data(places).join("path")
    .attr("d", (at) => cells.renderCell(at.ray)).attr("fill", (at) => preferenceColour(run.rays[at.ray]))
    .attr("stroke", (at) => preferenceColour(run.rays[at.ray])).attr("stroke-width", 0.7);
  svg.append("g").selectAll("circle").data(places).join("circle").attr("cx", (at) => at.x).attr("cy", (at) => at.y).attr("r", 1.6).attr("fill", "#fff").attr("opacity", 0.75);
  drawCorners(svg, shape.corners);
  const marker = svg.append("g").attr("class", "over");

  const move = (event) => setWish(shape.ray(...d3.pointer(event, svg.node())));
  svg.on("pointerdown", (event) => { svg.node().setPointerCapture(event.pointerId); move(event); });
  svg.on("pointermove", (event) => { if (event.buttons) move(event); });
  svg.on("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Home") setRay(centreOf(run.rays));
    else if (way) setRay(neighbour(places, state.ray, way));
    else return;
    event.preventDefault();
  });
  const update = () => {
    marker.selectAll("*").remove();
    drawRing(marker, places[state.ray], 11);
  };
  return { element: svg.node(), update };
}

// The nearest evaluated place within 60° of a way; the same one where there is none.
function neighbour(places, ray, [dx, dy]) {
  const from = places[ray];
  const ahead = places.filter((at) => {
    const far = Math.hypot(at.x - from.x, at.y - from.y);
    return far > 1e-6 && ((at.x - from.x) * dx + (at.y - from.y) * dy) / far > 0.5 - 1e-9;
  });
  const cost = (at) => {
    const along = (at.x - from.x) * dx + (at.y - from.y) * dy;
    const aside = Math.abs((at.x - from.x) * dy - (at.y - from.y) * dx);
    return along + 1.5 * aside;
  };
  return ahead.length ? d3.least(ahead, cost).ray : ray;
}
