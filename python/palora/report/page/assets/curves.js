"use strict";
// Training: the loss of each task, and the hypervolume of the validation, by epoch; mean and range of the seeds.

function drawTraining() {
  const panels = [
    ...data.tasks.map((task, t) => ({ title: `training loss, ${task} ↓`, at: (run) => run.curves.epoch.map((epoch, i) => [epoch, run.curves.losses[t][i]]) })),
    { title: "hypervolume of validation losses ↑", at: (run) => run.curves.validated.map((epoch, i) => [epoch, run.curves.hypervolume[i]]) },
  ].map((panel) => ({ ...panel, series: groupSeries(panel.at) })).filter((panel) => panel.series.length);
  byId("curves-card").hidden = !panels.length;
  const place = byId("curves");
  place.replaceChildren(...panels.map(() => el("div")));
  panels.forEach((panel, i) => place.children[i].append(drawCurve(panel, place.children[i].clientWidth)));
  const epochs = d3.max(data.runs, (run) => d3.max(run.curves.epoch)) ?? 0;
  byId("curves-note").textContent = epochs === 1 ? "After one epoch a curve is a point." : data.groups.some((_, group) => several(group)) ? "Bands span the seeds." : "";
}

// Per group: epoch → values of the seeds that have one.
function groupSeries(at) {
  return runsByGroup(data.runs).flatMap(([group, runs]) => {
    const points = d3.sort(d3.rollup(runs.flatMap(at).filter(([, found]) => found !== null), (found) => found.map(([, number]) => number), ([epoch]) => epoch), ([epoch]) => epoch);
    return points.length ? [{ group, points }] : [];
  });
}

function drawCurve({ title, series }, room) {
  const [width, height] = [Math.max(240, room), 210];
  const box = { left: 44, top: 32, right: width - 12, bottom: height - 34 };
  const svg = d3.create("svg").attr("viewBox", `0 0 ${width} ${height}`).attr("width", width).attr("height", height).attr("role", "img");
  const epochs = d3.extent(series.flatMap(({ points }) => points.map(([epoch]) => epoch)));
  const x = d3.scaleLinear(epochs[0] === epochs[1] ? [epochs[0] - 1, epochs[1] + 1] : epochs, [box.left, box.right]);
  const y = d3.scaleLinear(domain(series.flatMap(({ points }) => points.flatMap(([, found]) => found))), [box.bottom, box.top]);
  const ends = series.map(({ group, points }) => `${data.groups[group]} ${compact(d3.mean(points.at(-1)[1]))}`).join(", ");
  svg.attr("aria-label", `${title}, at the end: ${ends}`);
  drawAxes(svg, box, x, y, "", title, true);
  svg.append("text").attr("class", "small").attr("x", box.right).attr("y", height - 4).attr("text-anchor", "end").text("epoch");
  for (const { group, points } of series) {
    const colour = groupColour(group);
    svg.append("path").attr("fill", colour).attr("fill-opacity", 0.16)
      .attr("d", d3.area(([epoch]) => x(epoch), ([, found]) => y(d3.min(found)), ([, found]) => y(d3.max(found)))(points));
    svg.append("path").attr("class", "curve").attr("fill", "none").attr("stroke", colour).attr("stroke-width", 2)
      .attr("d", d3.line(([epoch]) => x(epoch), ([, found]) => y(d3.mean(found)))(points));
    if (points.length < 30) {
      svg.append("g").selectAll("circle").data(points).join("circle").attr("cx", ([epoch]) => x(epoch)).attr("cy", ([, found]) => y(d3.mean(found))).attr("r", 2.6).attr("fill", colour);
    }
  }
  return svg.node();
}
