"use strict";
// Two tasks: each chosen column against the preference, with the mean and the range of the seeds.

const along = {
  id: "along",
  name: "Along λ",
  fits: () => T === 2 && data.runs.some((run) => run.rays.length > 1),
  options: () => [
    columnChoice("first", state.x, (column) => { state.x = column; changes.call("figure"); }),
    columnChoice("second", state.y, (column) => { state.y = column; changes.call("figure"); }),
  ],
  draw: drawAlong,
};

function drawAlong(canvas) {
  const beside = canvas.width > 560;
  const count = state.x === state.y ? 1 : 2;
  const across = beside ? canvas.width / count : canvas.width;
  const down = beside ? canvas.height : canvas.height / count;
  const panels = [state.x, state.y].slice(0, count).map((column, i) => {
    const left = beside ? i * across : 0;
    const top = beside ? 0 : i * down;
    return alongPanel(canvas.g, column, {
      left: left + 52, top: top + 34, right: left + across - 16, bottom: top + down - 44,
    });
  });
  return {
    hits: panels.flatMap((panel) => panel.hits),
    mark: (g, run, ray) => panels.forEach((panel) => panel.mark(g, run, ray)),
  };
}

function alongPanel(g, column, box) {
  const { factor, label } = data.columns[column];
  const runs = shownRuns();
  const all = runs.flatMap((run) => run.values[column].filter((found) => found !== null).map((found) => found * factor));
  const x = d3.scaleLinear([0, 1], [box.left, box.right]);
  const y = d3.scaleLinear(domain(all), [box.bottom, box.top]);
  drawAxes(g, box, x, y, `preference for ${data.tasks[1]} →`, label);
  const place = (run, ray) => ({ run, ray, x: x(run.rays[ray][1]), y: y(value(run, column, ray) * factor) });
  const hits = [];
  for (const [group, members] of runsByGroup(runs)) {
    const colour = groupColour(group);
    if (members[0].rays.length === 1) {
      drawLevel(g, members.map((run) => value(run, column, 0)).filter((found) => found !== null).map((found) => y(found * factor)), x, colour);
      continue;
    }
    const order = d3.sort(d3.range(members[0].rays.length), (ray) => members[0].rays[ray][1]);
    if (members.length > 1 && sameRays(members)) {
      const at = (ray) => members.map((run) => place(run, ray).y);
      g.append("path").attr("class", "band").attr("fill", colour).attr("fill-opacity", 0.16).attr("d",
        d3.area((ray) => place(members[0], ray).x, (ray) => d3.min(at(ray)), (ray) => d3.max(at(ray)))(order));
      g.append("path").attr("class", "front-line").attr("fill", "none").attr("stroke", colour).attr("stroke-width", 2)
        .attr("d", d3.line((ray) => place(members[0], ray).x, (ray) => d3.mean(at(ray)))(order));
    }
    for (const run of members) {
      const places = d3.range(run.rays.length).filter((ray) => value(run, column, ray) !== null).map((ray) => place(run, ray));
      if (members.length === 1 || !sameRays(members)) {
        g.append("path").attr("class", "front-line").attr("fill", "none").attr("stroke", colour).attr("stroke-width", 1.4)
          .attr("d", d3.line((at) => at.x, (at) => at.y)(d3.sort(places, (at) => at.x)));
      }
      drawPoints(g, run, places, members.length > 1 ? 26 : 56);
      hits.push(...places);
    }
  }
  const mark = (over, run, ray) => {
    if (run.rays.length === 1 || value(run, column, ray) === null) return;
    const at = place(run, ray);
    over.append("line").attr("class", "marker").attr("x1", at.x).attr("x2", at.x).attr("y1", box.top).attr("y2", box.bottom)
      .attr("stroke-dasharray", "3 4").style("stroke-width", "1px");
    drawRing(over, at);
  };
  return { hits, mark };
}

// A single point has no preference: a line over all of them, in the range of its seeds.
function drawLevel(g, heights, x, colour) {
  if (!heights.length) return;
  const [left, right] = x.range();
  if (heights.length > 1) {
    g.append("rect").attr("class", "band").attr("x", left).attr("width", right - left).attr("y", d3.min(heights))
      .attr("height", Math.max(1, d3.max(heights) - d3.min(heights))).attr("fill", colour).attr("fill-opacity", 0.14);
  }
  g.append("line").attr("x1", left).attr("x2", right).attr("y1", d3.mean(heights)).attr("y2", d3.mean(heights))
    .attr("stroke", colour).attr("stroke-width", 1.6).attr("stroke-dasharray", "6 4");
}
