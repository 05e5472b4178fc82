"use strict";
// Reads out the values of a chart under the pointer, or with the arrow keys.
const SVG = "http://www.w3.org/2000/svg";

function shape(parent, tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.appendChild(node);
}

function nearest(points, x) {
  let best = points[0];
  for (const point of points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
  return best;
}

for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart);
  const cursor = svg.querySelector(".cursor");
  const readout = svg.parentElement.querySelector(".readout");
  const places = [...new Set(data.curves.flatMap((curve) => curve.points.map((point) => point[0])))].sort((a, b) => a - b);
  let place = -1;

  const show = (x) => {
    const lead = nearest(data.curves.map((curve) => nearest(curve.points, x)), x);
    place = places.indexOf(lead[0]);
    cursor.replaceChildren();
    shape(cursor, "line", { x1: lead[0], x2: lead[0], y1: data.top, y2: data.bottom });
    const words = [`${data.x} ${lead[2]}`];
    for (const curve of data.curves) {
      const point = nearest(curve.points, lead[0]);
      if (Math.abs(point[0] - lead[0]) > 0.6) continue;
      shape(cursor, "circle", { cx: point[0], cy: point[1], r: 4, class: `tone${curve.tone}` });
      words.push(`${curve.label} ${point[3]}`);
    }
    readout.textContent = words.join("  ·  ");
  };
  const hide = () => {
    place = -1;
    cursor.replaceChildren();
    readout.textContent = "";
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(places[Math.min(Math.max(place + step, 0), places.length - 1)]);
  });
}

// Pictures through training: one at a time under a slider; without this script, and in print, all of them are seen.
for (const box of document.querySelectorAll(".progress")) {
  const frames = [...box.querySelectorAll(".frames figure")];
  if (frames.length < 2) continue;
  const slider = document.createElement("input");
  slider.type = "range";
  slider.min = 0;
  slider.max = slider.value = frames.length - 1;
  slider.setAttribute("aria-label", "Step of training");
  const show = () => {
    frames.forEach((frame, index) => frame.classList.toggle("off", index !== Number(slider.value)));
    slider.setAttribute("aria-valuetext", frames[slider.value].textContent);
  };
  slider.addEventListener("input", show);
  box.classList.add("sliding");
  box.appendChild(slider);
  show();
}
