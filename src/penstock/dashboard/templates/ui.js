"use strict";
const EVERY_MS = 2000;
const SVG = "http://www.w3.org/2000/svg";
const page = document.body.dataset;

function write(texts) {
  for (const place of document.querySelectorAll("[data-text]")) {
    const text = texts[place.dataset.text];
    if (text !== undefined && place.textContent !== text) place.textContent = text;
  }
}

function mark(states) {
  for (const badge of document.querySelectorAll("[data-state]")) {
    const state = states[badge.dataset.state];
    if (state === undefined || state === badge.textContent) continue;
    badge.textContent = state;
    badge.className = "badge " + state.replaceAll(" ", "-");
  }
}

function part(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function draw(charts) {
  for (const [key, chart] of Object.entries(charts)) {
    const svg = document.querySelector(`[data-chart="${key}"]`);
    if (!svg) continue;
    svg.querySelector(".course").setAttribute("d", chart.path);
    const { left, right } = svg.dataset;
    svg.querySelector(".up").replaceChildren(...chart.up.flatMap(([at, text]) => [
      part("line", { x1: left, x2: right, y1: at, y2: at }),
      part("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, text),
    ]));
  }
}

async function look() {
  if (document.hidden) { // nobody looks, so nothing is asked
    document.addEventListener("visibilitychange", look, { once: true });
    return;
  }
  try {
    const answer = await fetch(page.live, { credentials: "same-origin" });
    if (!answer.ok) throw new Error(answer.status);
    const now = await answer.json();
    if (JSON.stringify(now.shape) !== page.shape) {
      location.reload();
      return;
    }
    write(now.texts);
    mark(now.states ?? { [now.name]: now.state });
    draw(now.charts ?? {});
    document.body.classList.remove("lost");
  } catch {
    document.body.classList.add("lost");
  }
  setTimeout(look, EVERY_MS);
}

if (page.live) setTimeout(look, EVERY_MS);
