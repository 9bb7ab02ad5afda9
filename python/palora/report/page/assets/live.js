"use strict";
// For the page that `palora explore` serves: the dial also stands between the evaluated preferences, the model answers
// there at once, and inputs come from the whole test set or from the reader.

const live = { asking: false, again: false };

changes.on("ray.outputs", null); // answers come from the model, not from the page

// In place of the slider over evaluated rays: hundredths from all on the first task to all on the second.
function twoSlider() {
  const input = el("input", {
    type: "range", id: "preference", min: 0, max: 100, step: 1, "aria-label": `Preference: from ${data.tasks[0]} to ${data.tasks[1]}`,
    oninput: (event) => setWish([1 - event.target.value / 100, event.target.value / 100]),
  });
  input.style.setProperty("--track-fill", `linear-gradient(90deg, ${taskColour(0)}, ${taskColour(1)})`);
  const ends = data.tasks.map((task, t) => {
    const end = el("span", {}, `all ${task}`);
    end.style.color = taskColour(t);
    return end;
  });
  const update = () => {
    input.value = Math.round(state.wish[1] * 100);
    input.setAttribute("aria-valuetext", rayText(state.wish));
  };
  return { element: el("div", { class: "slider two" }, el("div", { class: "ends" }, ...ends), input), update };
}

const asked = () => state.wish.map((weight) => +weight.toFixed(4));

function showWish() {
  const run = activeRun();
  if (run.rays.length > 1) {
    const off = d3.max(run.rays[state.ray], (weight, t) => Math.abs(weight - state.wish[t])) > 0.002;
    const about = off ? [el("span", { class: "note" }, `numbers: of ${rayText(run.rays[state.ray])}, the nearest that was evaluated`)] : [];
    byId("ray").replaceChildren(`λ: ${rayText(state.wish)}`, ...about);
    const checkpoint = data.live.checkpoint === "last" ? "" : ` --checkpoint ${data.live.checkpoint}`;
    byId("command").textContent = `palora export ${run.command} --preference ${asked().join(",")}${checkpoint} --format state-dict`;
  }
  ask();
}

async function post(what, body, headers) {
  let reply;
  try {
    reply = await fetch(what, { method: "POST", body, headers });
  } catch {
    throw new Error("palora explore does not answer any more: start it again.");
  }
  const content = await reply.json();
  if (!reply.ok) throw new Error(content.error);
  return content;
}

const question = (more) => post(more.start === undefined ? "answer" : "samples",
  JSON.stringify({ preference: asked(), ...more }), { "Content-Type": "application/json" });

const say = (text) => { byId("live-note").textContent = text; };

// One question at a time; where the dial moved meanwhile, the newest comes next.
async function ask() {
  if (live.asking) { live.again = true; return; }
  live.asking = true;
  try {
    do {
      live.again = false;
      const { samples } = activeRun().samples;
      const found = await question({ samples: samples.map((sample) => sample.index) });
      if (samples !== activeRun().samples.samples) { live.again = true; continue; }
      showAnswers(found.answers);
      say(`Live: answered in ${found.milliseconds} ms.`);
    } while (live.again);
  } catch (error) {
    say(error.message);
  } finally {
    live.asking = false;
  }
}

function use(samples) {
  activeRun().samples = { ...activeRun().samples, samples };
  buildOutputs();
  byId("outputs-note").textContent = "Samples of the test split, and what was uploaded.";
  ask();
}

async function showFrom(start) {
  try {
    use((await question({ start })).samples);
  } catch (error) {
    say(error.message);
  }
}

async function upload(file) {
  if (!file) return;
  const kind = file.type || (file.name.endsWith(".csv") ? "text/csv" : "");
  if (!data.live.kinds.includes(kind)) { say(`This model takes ${data.live.kinds.join(" or ")}, not ${kind || "a file of this kind"}.`); return; }
  if (file.size > data.live.bytes) { say(`An upload may have ${data.live.bytes} bytes; this file has ${file.size}.`); return; }
  try {
    const { sample } = await post("upload", file, { "Content-Type": kind, "X-Preference": JSON.stringify(asked()) });
    use([sample, ...activeRun().samples.samples].slice(0, 12));
  } catch (error) {
    say(error.message);
  }
}

function liveControls() {
  const place = el("input", { type: "number", id: "start", min: 0, max: data.live.samples - 1, value: 0, "aria-label": "First sample of the test set" });
  const go = (start) => { place.value = start; showFrom(start); };
  const parts = [
    el("label", {}, "Test samples from", place),
    el("button", { type: "button", id: "show-from", onclick: () => go(Math.max(0, Math.min(data.live.samples - 1, Math.floor(+place.value) || 0))) }, "Show"),
    el("button", { type: "button", onclick: () => go(Math.floor(Math.random() * data.live.samples)) }, "Random"),
  ];
  if (data.live.kinds.length) {
    const input = el("input", {
      type: "file", id: "upload", accept: data.live.kinds.join(","),
      onchange: (event) => { upload(event.target.files[0]).then(() => { event.target.value = ""; }); },
    });
    parts.push(el("label", {}, "Your own", input));
  }
  byId("outputs").before(el("div", { class: "bar", id: "live-controls" }, ...parts), el("p", { class: "note", id: "live-note", role: "status" }));
}

liveControls();
changes.on("ray.live", showWish);
