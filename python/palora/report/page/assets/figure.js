"use strict";
// The figure: which view, its options and legend, what is under the pointer, the marker of the dial, the filter.

const VIEWS = (T === 2 ? [plane, along, parallel] : T === 3 ? [ternary, solid, plane, parallel] : [parallel, plane])
  .filter((view) => view.fits());
state.view = VIEWS[0];

let drawn = { hits: [], mark: () => {} };
let over = d3.create("svg"); // the group of the marker, above everything

function drawFigure() {
  const place = byId("figure");
  const width = Math.max(260, place.clientWidth);
  const height = state.view.height ? state.view.height(width) : Math.max(320, Math.min(520, width * 0.68));
  changes.on("filter.parallel", null);
  const svg = d3.create("svg").attr("width", width).attr("height", height).attr("viewBox", `0 0 ${width} ${height}`)
    .attr("role", "img").attr("aria-label", describeFigure()).classed("turns", !!state.view.turns);
  drawn = state.view.draw({ svg, g: svg.append("g"), width, height });
  over = svg.append("g").attr("class", "over");
  listen(svg);
  place.replaceChildren(svg.node());
  drawMarker();
}

function describeFigure() {
  const groups = data.groups.filter((_, group) => !state.hidden.has(group)).join(", ");
  return `${state.view.name} of ${groups || "nothing"}. The same numbers are in the tables below; the dial moves the marker.`;
}

function drawMarker() {
  over.selectAll("*").remove();
  drawn.mark(over, activeRun(), state.ray);
}

// Hover shows, a click or tap moves the dial there; a view in space is turned by dragging.
function listen(svg) {
  let from = null;
  svg.on("pointermove", (event) => {
    if (from && event.buttons) {
      const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
      from = [event.clientX, event.clientY];
      turnBy(dx * 0.01, dy * 0.01);
      return;
    }
    showTip(event, under(event));
  });
  svg.on("pointerleave", () => { byId("tip").hidden = true; });
  svg.on("click", (event) => {
    const found = under(event);
    if (found) setRun(data.runs.indexOf(found.run), found.ray);
    showTip(event, found); // a finger does not hover
  });
  if (!state.view.turns) return;
  svg.attr("tabindex", 0).attr("aria-label", `${describeFigure()} Arrow keys turn it.`);
  svg.on("pointerdown", (event) => {
    from = [event.clientX, event.clientY];
    const move = (later) => {
      turnBy((later.clientX - from[0]) * 0.01, (later.clientY - from[1]) * 0.01);
      from = [later.clientX, later.clientY];
    };
    const stop = () => { window.removeEventListener("pointermove", move); window.removeEventListener("pointerup", stop); };
    window.addEventListener("pointermove", move);
    window.addEventListener("pointerup", stop);
  });
  svg.on("keydown", (event) => {
    const by = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] }[event.key];
    if (!by) return;
    event.preventDefault();
    turnBy(...by);
    byId("figure").querySelector("svg").focus();
  });
}

function under(event) {
  const [x, y] = d3.pointer(event, byId("figure").querySelector("svg"));
  const found = d3.least(drawn.hits, (at) => Math.hypot(at.x - x, at.y - y));
  return found && Math.hypot(found.x - x, found.y - y) < 22 ? found : null;
}

function showTip(event, found) {
  const tip = byId("tip");
  tip.hidden = !found;
  if (!found) return;
  const { run, ray } = found;
  const rows = data.columns.map((column, i) =>
    el("tr", {}, el("th", {}, column.name), el("td", {}, show(i, value(run, i, ray)))));
  const worse = run.nondominated[ray] ? "" : " · dominated";
  tip.replaceChildren(
    el("strong", {}, runName(run)),
    el("div", {}, run.rays.length > 1 ? `λ: ${rayText(run.rays[ray])}${worse}` : "a single point, no preference"),
    el("table", {}, ...rows),
  );
  const card = byId("figure-card").getBoundingClientRect();
  const left = event.clientX - card.left;
  tip.style.left = `${Math.max(4, Math.min(left + 16, card.width - tip.offsetWidth - 4))}px`;
  const top = event.clientY - card.top;
  tip.style.top = `${top + 18 + tip.offsetHeight > card.height ? Math.max(4, top - tip.offsetHeight - 14) : top + 18}px`;
}

function drawChrome() {
  byId("views").replaceChildren(...VIEWS.map((view) => el("button", {
    type: "button", "aria-pressed": String(view === state.view), "data-view": view.id,
    onclick: () => { state.view = view; changes.call("figure"); byId("views").querySelector(`[data-view=${view.id}]`).focus(); },
  }, view.name)));
  byId("views").hidden = VIEWS.length < 2;
  const colours = [["method", "run"], ["preference", "preference"]].map(([name, text]) =>
    el("option", { value: name, selected: name === state.colour }, text));
  const colouring = state.view === ternary ? null : el("label", {}, "colour", el("select", {
    id: "colour", onchange: (event) => { state.colour = event.target.value; changes.call("figure"); },
  }, ...colours));
  byId("figure-options").replaceChildren(...state.view.options(), ...(colouring ? [colouring] : []));
  drawLegend();
  drawBounds();
  byId("figure-note").textContent = noteOfView();
}

function noteOfView() {
  const hollow = data.runs.some((run) => run.nondominated.includes(false));
  const look = state.view === parallel ? "Faint lines" : "Hollow points";
  return [
    hollow ? `${look} are dominated, on losses, by another preference of their run.` : "",
    state.view !== parallel && T === 2 && data.groups.some((_, group) => several(group)) ? "Bands span the seeds, thick lines are their mean." : "",
    state.view === parallel ? "Drag along an axis to filter; up is better on every axis." : "",
    state.view === parallel && data.groups.some((_, group) => several(group)) ? "The band is the range of the seeds at the dial's preference." : "",
    state.view === ternary ? "The run under the dial; dark is good. Each cell is one evaluated preference." : "",
    state.view === solid ? "Drag to turn." : "",
    T > 3 && state.colour === "preference" ? "Colour: the task that is preferred most." : "",
  ].filter((text) => text).join(" ");
}

function drawLegend() {
  const entries = data.groups.map((label, group) => {
    const svg = d3.create("svg").attr("viewBox", "-11 -7 22 14").attr("aria-hidden", "true");
    svg.append("path").attr("d", symbols(groupShape(group), 60)).attr("fill", groupColour(group));
    const seeds = data.runs.filter((run) => run.group === group).length;
    return el("li", {}, el("label", {}, el("input", {
      type: "checkbox", checked: !state.hidden.has(group),
      onchange: (event) => {
        if (event.target.checked) state.hidden.delete(group);
        else state.hidden.add(group);
        drawFigure();
      },
    }), svg.node(), seeds > 1 ? `${label} (${seeds} seeds)` : label));
  });
  byId("legend").replaceChildren(...entries);
  byId("legend").hidden = data.groups.length < 2;
}

// The same filter as the brushes, for those who cannot drag: the worst value that is still good enough.
function drawBounds() {
  byId("bounds").hidden = state.view !== parallel;
  if (state.view !== parallel) return;
  byId("bounds-fields").replaceChildren(...parallelColumns().map((column) => {
    const { label, factor, high } = data.columns[column];
    const bound = state.bounds.get(column);
    const found = bound ? bound[high ? 0 : 1] * factor : NaN;
    return el("label", {}, `${label}, ${high ? "at least" : "at most"}`, el("input", {
      type: "number", step: "any", "data-column": column, value: Number.isFinite(found) ? +found.toPrecision(5) : null,
      onchange: (event) => {
        const limit = event.target.value === "" ? null : +event.target.value / factor;
        if (limit === null) state.bounds.delete(column);
        else state.bounds.set(column, high ? [limit, Infinity] : [-Infinity, limit]);
        changes.call("filter");
        drawFigure();
      },
    }));
  }));
}

function showFilter() {
  const note = byId("filter-note");
  const rays = shownRuns().flatMap((run) => d3.range(run.rays.length).map((ray) => passes(run, ray)));
  note.hidden = !state.bounds.size;
  note.textContent = `${d3.sum(rays)} of ${rays.length} preferences pass the filter.`;
}

changes.on("figure.figure", () => { drawChrome(); drawFigure(); });
changes.on("run.figure", () => { if (state.view === ternary) drawFigure(); });
changes.on("ray.figure", drawMarker);
changes.on("filter.figure", () => { showFilter(); if (!document.activeElement?.closest("#bounds")) drawBounds(); });
