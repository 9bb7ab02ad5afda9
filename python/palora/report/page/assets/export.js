"use strict";
// The figure as a file: SVG with its colours written out and a legend, or a PNG of that.

const KEPT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "font-size", "font-weight", "font-family"];

// The figure as it is seen, on its own: nothing in it refers to the page.
function standalone() {
  const shown = byId("figure").querySelector("svg");
  const width = +shown.getAttribute("width");
  const height = +shown.getAttribute("height");
  const copy = shown.cloneNode(true);
  const [from, to] = [shown, copy].map((svg) => [svg, ...svg.querySelectorAll("*")]);
  from.forEach((element, i) => {
    const computed = getComputedStyle(element);
    for (const name of KEPT) to[i].setAttribute(name, computed.getPropertyValue(name));
    to[i].removeAttribute("style");
    to[i].removeAttribute("class");
  });
  copy.querySelectorAll("[cursor=crosshair], .brush").forEach((element) => element.remove());
  const svg = d3.select(copy).attr("xmlns", "http://www.w3.org/2000/svg").attr("class", null);
  const names = data.groups.map((label, group) => ({ label, group })).filter(({ group }) => !state.hidden.has(group));
  let [x, y] = [16, height + 16];
  for (const { label, group } of names) {
    const wide = 34 + label.length * 6.6;
    if (x + wide > width && x > 16) [x, y] = [16, y + 20];
    svg.append("path").attr("d", symbols(groupShape(group), 64)).attr("transform", `translate(${x},${y - 4})`).attr("fill", css(`--g${group % GROUP_COLOURS}`));
    svg.append("text").attr("x", x + 12).attr("y", y).attr("fill", css("--ink")).attr("font-size", 12).attr("font-family", "sans-serif").text(label);
    x += wide;
  }
  const total = y + 12;
  svg.attr("viewBox", `0 0 ${width} ${total}`).attr("width", width).attr("height", total);
  svg.insert("rect", ":first-child").attr("width", width).attr("height", total).attr("fill", css("--card"));
  return { text: new XMLSerializer().serializeToString(copy), width, height: total };
}

function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

const fileName = (kind) => `palora-${state.view.id}.${kind}`;

function saveSvg() {
  download(new Blob([standalone().text], { type: "image/svg+xml" }), fileName("svg"));
}

function savePng(scale = 3) {
  const { text, width, height } = standalone();
  const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
  const picture = new Image();
  picture.onload = () => {
    const canvas = el("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(address);
    canvas.toBlob((blob) => download(blob, fileName("png")), "image/png");
  };
  picture.src = address;
}

// A line of text to the clipboard; where the browser keeps that from files, it is selected to be copied by hand.
async function copyText(element, said) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    said.textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(element);
    said.textContent = "Selected: copy it with Ctrl-C or ⌘C.";
  }
}
