"use strict";
// A native slider for two tasks; one a task for more, which together always sum to one.

// The evaluated rays from all on the first task to all on the second.
function twoSlider(run) {
  const order = d3.sort(d3.range(run.rays.length), (ray) => run.rays[ray][1]);
  const input = el("input", {
    type: "range", id: "preference", min: 0, max: order.length - 1, step: 1, "aria-label": `Preference: from ${data.tasks[0]} to ${data.tasks[1]}`,
    oninput: (event) => setRay(order[+event.target.value]),
  });
  input.style.setProperty("--track-fill", `linear-gradient(90deg, ${taskColour(0)}, ${taskColour(1)})`);
  const ends = data.tasks.map((task, t) => {
    const end = el("span", {}, `all ${task}`);
    end.style.color = taskColour(t);
    return end;
  });
  const update = () => {
    input.value = order.indexOf(state.ray);
    input.setAttribute("aria-valuetext", rayText(run.rays[state.ray]));
  };
  return { element: el("div", { class: "slider two" }, el("div", { class: "ends" }, ...ends), input), update };
}

// Moving one slider takes from the others in proportion, or gives to them.
function shifted(wish, task, weight) {
  const rest = 1 - wish[task];
  return wish.map((found, t) => (t === task ? weight : rest > 1e-9 ? (found / rest) * (1 - weight) : (1 - weight) / (T - 1)));
}

function taskSliders() {
  const rows = data.tasks.map((task, t) => {
    const output = el("output", {});
    const input = el("input", {
      type: "range", min: 0, max: 100, step: 1, "aria-label": `Preference for ${task}`, "data-task": t,
      oninput: (event) => setWish(shifted(state.wish, t, +event.target.value / 100)),
    });
    const dot = el("span", { class: "swatch" });
    dot.style.background = taskColour(t);
    const update = () => {
      const weight = state.wish[t];
      input.value = Math.round(weight * 100);
      output.textContent = weightText(weight);
      input.style.setProperty("--track-fill", `linear-gradient(90deg, ${taskColour(t)} ${weight * 100}%, var(--track) ${weight * 100}%)`);
    };
    return { element: el("div", { class: "slider" }, el("div", { class: "name", title: task }, dot, task), input, output), update };
  });
  return { element: el("div", {}, ...rows.map((row) => row.element)), update: () => rows.forEach((row) => row.update()) };
}
