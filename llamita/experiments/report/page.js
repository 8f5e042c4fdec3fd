// Shows the values of the point next to the mouse, or of the one that the arrow keys have moved to.
"use strict";
const tip = document.getElementById("tip");
const NEAR = 60; // units of the drawing

function linesOf(svg) {
  const drawn = [...svg.querySelectorAll("polyline[data-name]")].filter((line) => line.dataset.x);
  return drawn.map((line) => ({
    name: line.dataset.name,
    at: line.getAttribute("points").split(" ").map((pair) => pair.split(",").map(Number)),
    x: line.dataset.x.split(" ").map(Number),
    y: line.dataset.y.split(" ").map(Number),
  }));
}

function show(svg, line, index) {
  const [x, y] = line.at[index];
  let ring = svg.querySelector(".pointer");
  if (!ring) {
    ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    ring.setAttribute("class", "pointer");
    ring.setAttribute("r", "6");
    svg.append(ring);
  }
  ring.setAttribute("cx", x);
  ring.setAttribute("cy", y);
  const number = (value) => (Math.abs(value) >= 1e12 ? value.toExponential(3) : value.toLocaleString("en"));
  tip.textContent = `${line.name}: ${line.y[index].toPrecision(5)} at ${number(line.x[index])} ${svg.dataset.unit}`;
  tip.hidden = false;
  const place = ring.getBoundingClientRect();
  const left = Math.min(place.right + 8, innerWidth - tip.offsetWidth - 8);
  const above = place.top - tip.offsetHeight - 4;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above < 4 ? place.bottom + 4 : above}px`;
}

function hide(svg) {
  svg.querySelector(".pointer")?.remove();
  tip.hidden = true;
}

function nearest(lines, x, y) {
  let best = { distance: NEAR };
  lines.forEach((line, number) => line.at.forEach(([px, py], index) => {
    const distance = Math.hypot(px - x, py - y);
    if (distance < best.distance) best = { distance, number, index };
  }));
  return best;
}

for (const svg of document.querySelectorAll("svg.chart")) {
  const lines = linesOf(svg);
  let number = 0, index = -1;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), unit = svg.viewBox.baseVal.width / box.width;
    const found = nearest(lines, (event.clientX - box.left) * unit, (event.clientY - box.top) * unit);
    if (found.number === undefined) return hide(svg);
    ({ number, index } = found);
    show(svg, lines[number], index);
  });
  svg.addEventListener("pointerleave", () => hide(svg));
  svg.addEventListener("blur", () => hide(svg));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], turn = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return hide(svg);
    if (!lines.length || (step === undefined && turn === undefined)) return;
    event.preventDefault();
    number = (number + (turn ?? 0) + lines.length) % lines.length;
    index = Math.max(0, Math.min(lines[number].at.length - 1, index + (step ?? 0)));
    show(svg, lines[number], index);
  });
}
addEventListener("scroll", () => document.querySelectorAll("svg.chart:has(.pointer)").forEach(hide), { passive: true });
