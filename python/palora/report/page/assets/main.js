"use strict";
// Puts the page together.

document.body.dataset.tasks = T;
const splits = [...new Set(data.runs.map((run) => run.split).filter((split) => split))];
byId("about").textContent = [
  `${T} tasks: ${data.tasks.join(", ")}`,
  data.runs.length === 1 ? `${data.groups[0]}, seed ${data.runs[0].seed}` : `${data.runs.length} runs of ${data.groups.join(", ")}`,
  splits.length ? `${splits.join(", ")} data` : "",
].filter((text) => text).join(" · ");
byId("made").textContent = `Written by palora ${data.version}.`;

byId("theme").value = themeChoice.read();
themeChoice.use(byId("theme").value);
byId("theme").addEventListener("change", (event) => themeChoice.use(event.target.value));
byId("save-svg").addEventListener("click", saveSvg);
byId("save-png").addEventListener("click", () => savePng());

buildRunChoice();
buildComparison();
buildMonotonicity();
buildTables();
drawChrome();
setRun(state.run);
drawFigure();
drawTraining();

let shownWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === shownWidth) return; // a phone's bars come and go
  shownWidth = window.innerWidth;
  drawFigure();
  drawTraining();
});
