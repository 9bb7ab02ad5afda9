"use strict";
// Everything as tables: the preferences of the run under the dial, the configuration and the environment of all runs.

function buildRays() {
  const run = activeRun();
  const heads = ["preference", ...data.columns.map((column) => column.name), "non-dominated"];
  const rows = run.rays.map((ray, i) => el("tr", { "data-ray": i, class: run.nondominated[i] ? null : "dominated" },
    el("td", {}, el("button", { type: "button", onclick: () => setRay(i) }, T > 3 ? ray.map((w) => w.toFixed(2)).join(" ") : rayText(ray))),
    ...data.columns.map((_, column) => el("td", { class: "number" }, show(column, value(run, column, i)))),
    el("td", {}, run.nondominated[i] ? (run.common[i] ? "yes, of all runs" : "yes") : "no")));
  byId("rays").replaceChildren(
    el("thead", {}, el("tr", {}, ...heads.map((name, i) => el("th", { scope: "col", class: i && i < heads.length - 1 ? "number" : null }, name)))),
    el("tbody", {}, ...rows));
  byId("rays-note").textContent = `${runName(run)}: ${run.note}`;
  filterRays();
}

function filterRays() {
  byId("rays").querySelectorAll("tbody tr").forEach((row) => { row.hidden = !passes(activeRun(), +row.dataset.ray); });
}

function markRow() {
  byId("rays").querySelectorAll("tbody tr").forEach((row) => {
    if (+row.dataset.ray === state.ray) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  });
}

// One column a run; what differs is set in bold.
function buildFacts(id, of, first = () => []) {
  const keys = [...new Set(data.runs.flatMap((run) => [...first(run).map(([key]) => key), ...Object.keys(of(run))]))];
  const found = (run, key) => new Map([...first(run), ...Object.entries(of(run))]).get(key) ?? "–";
  byId(id).replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ""), ...data.runs.map((run) => el("th", { scope: "col" }, runName(run))))),
    el("tbody", {}, ...keys.map((key) => {
      const values = data.runs.map((run) => found(run, key));
      return el("tr", { class: new Set(values).size > 1 ? "differs" : null }, el("th", { scope: "row" }, key), ...values.map((text) => el("td", {}, text)));
    })));
}

function buildTables() {
  buildFacts("config", (run) => run.config, (run) => [["run folder", run.folder], ["split", run.split], ["checkpoint", run.checkpoint], ["epochs done", run.epochs]]);
  buildFacts("environment", (run) => run.environment);
}

changes.on("run.tables", buildRays);
changes.on("ray.tables", markRow);
changes.on("filter.tables", filterRays);
