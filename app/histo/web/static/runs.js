"use strict";
// The learning curve of a run, asked for anew while it trains; and the choice of two runs.
const AGAIN = 3000, WIDTH = 640, HEIGHT = 320, EDGE = 44;
const LINES = ["train_loss", "valid_loss", "roc_auc"];
const byId = (id) => document.getElementById(id);
let shown = null, timer = 0;

function svg(kind, facts, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(facts)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function draw(epochs) {
  const lines = LINES.filter((name) => epochs.some((row) => row[name] != null));
  const most = Math.max(1, ...epochs.flatMap((row) => lines.map((name) => row[name] ?? 0)));
  const x = (n) => EDGE + (WIDTH - 2 * EDGE) * (epochs.length > 1 ? n / (epochs.length - 1) : 0.5);
  const y = (value) => HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * value / most;
  const parts = [svg("line", { class: "axis", x1: EDGE, x2: WIDTH - EDGE, y1: y(0), y2: y(0) })];
  for (const share of [0, 0.5, 1]) parts.push(svg("text", { x: 4, y: y(share * most) + 4 }, (share * most).toFixed(2)));
  parts.push(svg("text", { x: WIDTH / 2 - 20, y: HEIGHT - 8 }, "epoch"));
  lines.forEach((name, n) => {
    const points = epochs.map((row, at) => [row, at]).filter(([row]) => row[name] != null).map(([row, at]) => `${x(at)},${y(row[name])}`);
    parts.push(svg("polyline", { class: `line-${n}`, points: points.join(" ") }));
    parts.push(svg("line", { class: `line-${n}`, x1: EDGE + 170 * n, x2: EDGE + 170 * n + 24, y1: 16, y2: 16, "stroke-width": 2 }));
    parts.push(svg("text", { x: EDGE + 170 * n + 30, y: 20 }, name.replace("_", " ")));
  });
  byId("plot").replaceChildren(...parts);
}

function table(epochs) {
  const names = Object.keys(epochs[0] ?? {});
  const cell = (kind, text) => Object.assign(document.createElement(kind), { className: "number", textContent: text });
  byId("heads").replaceChildren(...names.map((name) => Object.assign(cell("th", name), { scope: "col" })));
  byId("rows").replaceChildren(...epochs.slice(-200).map((row) => {
    const line = document.createElement("tr");
    line.append(...names.map((name) => cell("td", row[name] == null ? "–" : String(Number(row[name].toPrecision(5))))));
    return line;
  }));
}

async function renew() {
  const name = shown;
  clearTimeout(timer);
  try {
    const answer = await fetch(`/api/runs/history?${new URLSearchParams({ name })}`), found = await answer.json();
    if (!answer.ok) throw new Error(found.detail);
    if (name !== shown) return;
    byId("problem").hidden = true;
    byId("curve").hidden = false;
    byId("curve-head").textContent = `Curve of ${name}`;
    const count = `${found.epochs.length}${found.planned ? ` of ${found.planned}` : ""} epochs`;
    byId("epochs").textContent = `${count}, ${found.finished ? "finished" : "not finished: looked at again every three seconds"}`;
    draw(found.epochs);
    table(found.epochs);
    if (found.finished) return;
  } catch (error) {
    byId("problem").textContent = error.message;
    byId("problem").hidden = false;
  }
  timer = setTimeout(renew, AGAIN);
}

function choose() {
  const chosen = [...document.querySelectorAll(".pick:checked")];
  byId("pair").disabled = chosen.length !== 2;
  return chosen.map((each) => each.value);
}

if (byId("compare")) {
  for (const button of document.querySelectorAll(".show")) {
    button.addEventListener("click", () => { shown = button.dataset.name; renew(); });
  }
  for (const each of document.querySelectorAll(".pick")) each.addEventListener("change", choose);
  byId("pair").addEventListener("click", () => {
    const [a, b] = choose();
    location.assign(`/runs/compare?${new URLSearchParams({ a, b })}`);
  });
  byId("compare").addEventListener("submit", (event) => event.preventDefault());
  choose();
}
