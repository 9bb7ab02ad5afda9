"use strict";
// One line a group of runs: what its fronts are worth, and what they cost.

function meanText(values, text) {
  const known = values.filter((found) => found !== null);
  if (!known.length) return "–";
  const deviation = d3.deviation(known);
  return text(d3.mean(known)) + (deviation === undefined ? "" : ` ± ${text(deviation)}`);
}

function buildComparison() {
  const four = (found) => minus(found.toFixed(4));
  const one = (values, text) => meanText(values, text);
  const columns = [
    ["hypervolume of losses", (row) => one(row.hypervolume_losses, four)],
    ["hypervolume of accuracies", (row) => one(row.hypervolume_accuracies, four)],
    ["non-dominated", (row) => (row.rays === 1 ? "one point" : `${row.nondominated.join(", ")} of ${row.rays}`)],
    ["on the common front", (row) => row.common.join(", ")],
    ["training time", (row) => one(row.train_seconds, seconds)],
    ["parameters", (row) => one(row.parameters.slice(0, 1), d3.format(","))],
    ["peak memory", (row) => one(row.peak_memory, gibibytes)],
    ["peak GPU memory", (row) => one(row.peak_device_memory, gibibytes)],
  ];
  const used = columns.filter(([, text]) => data.rows.some((row, group) => text(row, group) !== "–"));
  const heads = ["run", "seeds", ...used.map(([name]) => name)];
  byId("comparison").replaceChildren(
    el("thead", {}, el("tr", {}, ...heads.map((name, i) => el("th", { scope: "col", class: i ? "number" : null }, name)))),
    el("tbody", {}, ...data.rows.map((row, group) => {
      const dot = el("span", { class: "swatch" });
      dot.style.background = groupColour(group);
      return el("tr", {}, el("th", { scope: "row" }, dot, row.label), el("td", { class: "number" }, row.seeds.join(", ")),
        ...used.map(([, text]) => el("td", { class: "number" }, text(row, group))));
    })));
  byId("comparison-note").textContent = [
    `Reference of the hypervolume: losses (${data.reference.map(compact).join(", ")}), accuracies 0.`,
    "± is the standard deviation over seeds. Dominated, and on the common front of all runs here, is judged on losses.",
    "Time is that of the training steps; memory is the most that the process held.",
    ...data.remarks,
  ].join(" ");
}

// How well the dial does what it says: a task's loss should fall as its weight grows.
function buildMonotonicity() {
  const groups = data.groups.map((label, group) => ({ label, runs: data.runs.filter((run) => run.group === group && run.rays.length > 1) }))
    .filter(({ runs }) => runs.length);
  byId("monotonicity-box").hidden = !groups.length;
  const three = (found) => minus(found.toFixed(3));
  byId("monotonicity").replaceChildren(
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "run"), ...data.tasks.map((task) => el("th", { scope: "col", class: "number" }, task)))),
    el("tbody", {}, ...groups.map(({ label, runs }) => el("tr", {}, el("th", { scope: "row" }, label),
      ...data.tasks.map((_, t) => el("td", { class: "number" }, meanText(runs.map((run) => run.spearman[t]), three)))))));
}
