"use strict";
// What the model answers for sample inputs at the dial's preference. Built once a run; a move of the dial changes texts,
// bars and pictures only.

let fill = []; // (answers of one sample, one a task) → nothing: how each sample shows them

const PICTURES = new Set(["segmentation", "depth", "normals"]);

function buildOutputs() {
  const { samples } = activeRun();
  fill = [];
  byId("outputs").replaceChildren();
  byId("outputs-note").textContent = outputsNote(samples);
  if (!samples?.samples.length) return;
  const dense = samples.tasks.some((task) => PICTURES.has(task.kind));
  const tabular = samples.samples.every((sample) => !sample.input.picture);
  byId("outputs").append(...(dense ? scenes(samples) : tabular ? [answerTable(samples)] : [cards(samples)]));
}

function outputsNote(samples) {
  if (!samples?.samples.length) {
    const other = data.runs.find((run) => run.group === activeRun().group && run.samples);
    return other ? `Answers were kept of ${runName(other)}.` : "No answers are in this page: palora evaluate keeps those of a few samples, palora report shows them.";
  }
  const first = samples.samples.filter((sample) => sample.chosen === "first").length;
  const rest = samples.samples.length - first;
  const { split, name } = activeRun();
  return `${first} samples of the ${split || "evaluated"} split as they come${rest ? `, and ${rest} whose answers change most along the front` : ""}. Run: ${name}.${samples.tasks.some((task) => task.kind === "classes") ? " Per cent: how sure the model is." : ""}`;
}

// Where answers were kept at fewer rays than the front has, those of the nearest.
function showOutputs() {
  const { samples, rays } = activeRun();
  if (!samples?.samples.length) return;
  showAnswers(samples.samples.map((sample) => sample.answers[nearest(samples.rays, rays[state.ray])]));
}

// One entry a sample, each with one answer a task: the one way in which answers come onto the page.
function showAnswers(answers) {
  answers.forEach((answer, i) => fill[i](answer));
}

const sampleTitle = (sample) => `sample ${sample.index}${sample.chosen === "changes" ? " · changes" : ""}`;

function inputPicture(sample) {
  const small = sample.input.width && sample.input.width < 100;
  return el("img", { src: sample.input.picture, alt: `input of sample ${sample.index}`, class: small ? "pixels" : null });
}

function cards(samples) {
  return el("div", { class: "samples" }, ...samples.samples.map((sample) => {
    const tasks = samples.tasks.map((task, t) => answerBlock(task, sample.truth[t], taskColour(t)));
    fill.push((answers) => tasks.forEach((task, t) => task.update(answers[t])));
    return el("article", { class: "sample" }, el("div", { class: "which" }, sampleTitle(sample)), inputPicture(sample),
      el("div", {}, ...tasks.map((task) => task.element)));
  }));
}

function answerBlock(task, truth, colour) {
  const guess = el("span", { class: `guess${task.kind === "classes" ? "" : " value"}` });
  const sure = el("span", { class: "sure" });
  const bars = task.kind === "classes" && truth.classes.length > 1
    ? truth.classes.map((name) => el("i", { class: name === truth.class ? "truth" : null, title: `class ${name}` })) : [];
  const update = (answer) => {
    const right = task.kind === "classes" ? answer.class === truth.class : null;
    guess.textContent = task.kind === "classes" ? `${answer.class} ${truth.class === null ? "" : right ? "✓" : "✗"}` : answer.values.map(compact).join(", ");
    guess.className = `guess ${right === null ? "value" : right ? "right" : "wrong"}`;
    sure.textContent = task.kind === "classes"
      ? `${right === false && truth.class !== null ? `is ${truth.class} · ` : ""}${Math.round(answer.confidence * 100)} %`
      : `is ${truth.values.map(compact).join(", ")}`;
    bars.forEach((bar, i) => {
      bar.style.height = `${Math.max(3, (answer.probabilities?.[i] ?? 0) * 100)}%`;
      bar.style.background = truth.classes[i] === answer.class ? colour : "";
      bar.classList.toggle("top", truth.classes[i] === answer.class);
    });
  };
  const chart = bars.length ? [el("div", { class: "bars", role: "img", "aria-label": `probabilities of the classes ${truth.classes.join(", ")}` }, ...bars)] : [];
  return { element: el("div", { class: "answer" }, el("span", { class: "task" }, task.name), guess, sure, ...chart), update };
}

function answerTable(samples) {
  const head = el("tr", {}, el("th", { scope: "col" }, "sample"), ...samples.tasks.map((task) => el("th", { scope: "col", class: "number" }, task.name)), el("th", { scope: "col", class: "input" }, "input"));
  const rows = samples.samples.map((sample) => {
    const cells = samples.tasks.map(() => el("td", { class: "number" }));
    fill.push((answers) => cells.forEach((cell, t) => cell.replaceChildren(...cellContent(samples.tasks[t], sample.truth[t], answers[t]))));
    return el("tr", {}, el("th", { scope: "row" }, `${sample.index}`, sample.chosen === "changes" ? " ↝" : ""), ...cells,
      el("td", { class: "input" }, inputText(sample.input)));
  });
  return el("div", {}, el("div", { class: "scroll" }, el("table", { id: "answers" }, el("thead", {}, head), el("tbody", {}, ...rows))),
    el("p", { class: "note" }, "Answer, and the truth below it. ↝: chosen because it changes along the front."));
}

function inputText({ values, of, shape }) {
  if (!values) return `a tensor of ${(shape ?? []).join(" × ")}`;
  return values.map(compact).join(", ") + (of > values.length ? `, … (${of} values)` : "");
}

function cellContent(task, truth, answer) {
  if (task.kind !== "classes") return [el("strong", {}, answer.values.map(compact).join(", ")), el("div", { class: "note" }, truth.values.map(compact).join(", "))];
  const right = answer.class === truth.class;
  return [
    el("strong", { class: right ? "right" : "wrong" }, `${answer.class} ${right ? "✓" : "✗"} ${Math.round(answer.confidence * 100)} %`),
    el("div", { class: "note" }, `${truth.class ?? "–"}`),
  ];
}

function scenes(samples) {
  return samples.samples.map((sample) => {
    const panels = [panel("input", inputPicture(sample))];
    const updates = samples.tasks.map((task, t) => {
      if (!PICTURES.has(task.kind)) {
        const block = answerBlock(task, sample.truth[t], taskColour(t));
        panels.push(panel(task.name, block.element));
        return block.update;
      }
      const picture = el("img", { alt: `${task.name} as the model sees it`, class: task.kind === "segmentation" ? "pixels" : null });
      const range = sample.truth[t].range ? ` (${sample.truth[t].range.map(compact).join(" – ")})` : "";
      panels.push(panel(`${task.name}, truth${range}`, el("img", { src: sample.truth[t].picture, alt: `true ${task.name}` })), panel(`${task.name}, answer`, picture));
      return (answer) => { picture.src = answer.picture; };
    });
    fill.push((answers) => updates.forEach((update, t) => update(answers[t])));
    return el("div", { class: "scene" }, el("p", { class: "note" }, sampleTitle(sample)), el("div", { class: "scroll" }, el("div", { class: "panels" }, ...panels)));
  });
}

const panel = (caption, content) => el("figure", {}, el("figcaption", {}, caption), content);

changes.on("run.outputs", buildOutputs);
changes.on("ray.outputs", showOutputs);
