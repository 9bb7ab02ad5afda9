"use strict";
// The dial: the control for the number of tasks, and what is measured where it stands.

let control = null;

function buildDial() {
  const run = activeRun();
  const single = run.rays.length === 1;
  control = single ? null : T === 2 ? twoSlider(run) : T === 3 ? trianglePad(run) : taskSliders();
  const parts = control ? [control.element] : [el("p", { class: "note" }, "This run is a single point: it has no dial.")];
  if (!single && T === 3) {
    const [pad, sliders] = [control, taskSliders()];
    parts.push(el("details", {}, el("summary", { class: "note" }, "Sliders in place of the triangle"), sliders.element));
    control = { update: () => { pad.update(); sliders.update(); } };
  }
  byId("dial").replaceChildren(...parts);
}

function showRay() {
  const run = activeRun();
  control?.update();
  const ray = run.rays[state.ray];
  const off = d3.max(ray, (weight, t) => Math.abs(weight - state.wish[t]));
  const about = run.rays.length === 1 ? "" : T > 2 && off > 0.005 ? "the nearest evaluated preference" : "";
  byId("ray").classList.toggle("long", T > 3);
  byId("ray").replaceChildren(
    run.rays.length === 1 ? "No preference" : `λ: ${rayText(ray)}`,
    ...(run.nondominated[state.ray] ? [] : [el("span", { class: "note" }, "another preference of this run dominates it")]),
    ...(about ? [el("span", { class: "note" }, about)] : []),
  );
  showMetrics(run);
  byId("command").textContent = [
    `palora export ${run.command}`,
    run.rays.length === 1 ? "" : `--preference ${plainRay(ray)}`,
    "--format state-dict",
    run.checkpoint === "best" ? "--checkpoint best" : "",
  ].filter((word) => word).join(" ");
  byId("copied").textContent = "";
}

// Each value, with the deviation over seeds where there are some, and where it stands between the worst and best of the grid.
function showMetrics(run) {
  const seeds = data.runs.filter((other) => other.group === run.group);
  const spread = seeds.length > 1 && sameRays(seeds);
  const rows = data.columns.map((column, i) => {
    const found = value(run, i, state.ray);
    const deviation = spread ? d3.deviation(seeds, (seed) => value(seed, i, state.ray)) : undefined;
    const [low, high] = d3.extent(run.values[i].filter((other) => other !== null));
    const share = found === null || low === high ? null : column.high ? (found - low) / (high - low) : (high - found) / (high - low);
    const meter = el("span", { class: "meter", role: "img", "aria-label": share === null ? "no range" : `${Math.round(share * 100)} % of the way from the worst to the best of the grid` }, el("i"));
    meter.firstChild.style.width = `${share === null ? 0 : Math.max(2, share * 100)}%`;
    if (column.task !== null) meter.firstChild.style.background = taskColour(column.task);
    return el("tr", { "data-column": column.name }, el("th", { scope: "row" }, column.name),
      el("td", { class: "number" }, show(i, found)),
      ...(spread ? [el("td", { class: "number note" }, deviation === undefined ? "" : `± ${show(i, deviation)}`)] : []),
      el("td", {}, run.rays.length > 1 ? meter : ""));
  });
  const heads = ["", "here", ...(spread ? ["seeds"] : []), run.rays.length > 1 ? "worst – best" : ""];
  byId("metrics").replaceChildren(
    el("thead", {}, el("tr", {}, ...heads.map((text, i) => el("th", { scope: "col", class: i && i < heads.length - 1 ? "number" : null }, text)))),
    el("tbody", {}, ...rows));
}

function buildRunChoice() {
  const options = data.runs.map((run, i) => el("option", { value: i }, runName(run)));
  byId("run").replaceChildren(...options);
  byId("run").addEventListener("change", (event) => setRun(+event.target.value));
  byId("run-choice").hidden = data.runs.length < 2;
  byId("copy").addEventListener("click", () => copyText(byId("command"), byId("copied")));
}

changes.on("run.dial", () => { byId("run").value = state.run; buildDial(); });
changes.on("ray.dial", showRay);
