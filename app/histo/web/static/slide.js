"use strict";
// The viewer of one slide: deep zoom, the map over it, the value under the pointer, the scale bar.
const byId = (id) => document.getElementById(id);
const slideName = byId("slide").dataset.name;
const STEPS = [1, 2, 5];
// OpenSeadragon adds a style sheet for phones, which the policy of the page forbids, unless there is
// one: this one is no HTML element, so that browsers do not apply it.
const phones = document.createElementNS("urn:none", "style");
phones.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(phones);
let about = null, viewer = null, overlay = null;

function fail(text) { byId("problem").textContent = text; byId("problem").hidden = !text; }

async function ask(place, options) {
  const answer = await fetch(place, options);
  if (answer.ok) return answer.json();
  let detail = `${answer.status}`;
  try { detail = (await answer.json()).detail; } catch { /* no JSON */ }
  throw new Error(typeof detail === "string" ? detail : "the server refuses it");
}

function source() {
  return {
    width: about.width, height: about.height, tileSize: about.tile, tileOverlap: about.overlap,
    getTileUrl: (level, column, row) => `/api/slides/tile?${new URLSearchParams({ name: slideName, level, column, row, v: about.changed })}`,
  };
}

function image() { return viewer.world.getItemAt(0); }

// A round length that takes about a hundred px of the screen.
function scaleBar() {
  if (!about.mpp || !image()) return;
  const micrometres = about.mpp / image().viewportToImageZoom(viewer.viewport.getZoom(true));
  const wanted = 100 * micrometres, ten = 10 ** Math.floor(Math.log10(wanted));
  const length = Math.max(...STEPS.map((step) => step * ten).filter((each) => each <= wanted), ten);
  byId("bar").style.width = `${length / micrometres}px`;
  byId("length").textContent = length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`;
  byId("scale").setAttribute("aria-label", `Scale bar: ${byId("length").textContent}`);
}

function under(event) {
  if (!image()) return;
  const rect = byId("viewer").getBoundingClientRect();
  const point = image().viewerElementToImageCoordinates(new OpenSeadragon.Point(event.clientX - rect.left, event.clientY - rect.top));
  const found = overlay?.at(point.x, point.y), place = `${Math.round(point.x)}, ${Math.round(point.y)} px`;
  const said = found ? overlay.map.classes.map((name, n) => `p(${name}) ${found[n].toFixed(3)}`).join(", ") : overlay ? "no tile" : "";
  byId("value").textContent = said ? `${place}: ${said}` : place;
}

function draw() {
  if (!overlay) return;
  const least = byId("threshold").value / 100;
  overlay.draw(Number(byId("classes").value), least);
  overlay.canvas.style.opacity = byId("opacity").value / 100;
  byId("opacity-value").textContent = `${byId("opacity").value} %`;
  byId("threshold-value").textContent = least.toFixed(2);
}

function goTo(box) {
  const [x, y, width, height] = box, wide = Math.max(width, height, overlay.map.cell * 4);
  const rect = new OpenSeadragon.Rect(x + width / 2 - wide, y + height / 2 - wide, 2 * wide, 2 * wide);
  viewer.viewport.fitBounds(image().imageToViewportRectangle(rect));
}

function regions() {
  const code = Number(byId("classes").value);
  const rows = overlay.map.regions.filter((each) => each.code === code).map((each) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `${each.name}: ${each.mm2.toFixed(3)} mm², highest ${each.highest.toFixed(3)}`;
    button.addEventListener("click", () => goTo(each.box));
    item.append(button);
    return item;
  });
  if (!rows.length) rows.push(Object.assign(document.createElement("li"), { textContent: "none" }));
  byId("regions").replaceChildren(...rows);
}

async function showMap() {
  const chosen = about.maps[Number(byId("maps").value)];
  if (overlay) viewer.removeOverlay(overlay.canvas);
  overlay = null;
  try {
    const query = new URLSearchParams({ name: slideName, folder: chosen.folder, slide: chosen.slide });
    overlay = new Overlay(await ask(`/api/slides/map?${query}`), about.bounds);
  } catch (error) { fail(error.message); return; }
  fail("");
  byId("classes").replaceChildren(...overlay.map.classes.map((name, n) => new Option(name, n)));
  byId("classes-label").hidden = overlay.map.classes.length < 2;
  byId("called").hidden = overlay.map.threshold === null;
  byId("called").textContent = `From the model's threshold on (${overlay.map.threshold?.toFixed(3)})`;
  byId("warnings").replaceChildren(...overlay.map.warnings.map((text) => Object.assign(document.createElement("p"), { className: "note warning", textContent: text })));
  const location = image().imageToViewportRectangle(new OpenSeadragon.Rect(...overlay.box));
  viewer.addOverlay({ element: overlay.canvas, location });
  draw();
  regions();
}

function listMaps() {
  byId("map").hidden = !about.maps.length;
  byId("none").hidden = about.maps.length > 0;
  byId("maps").replaceChildren(...about.maps.map((each, n) => new Option(`${each.folder} (${each.classes.join(", ")})`, n)));
  if (about.maps.length) { byId("maps").value = about.maps.length - 1; showMap(); }
}

async function renewMaps() {
  about = await ask(`/api/slides/about?${new URLSearchParams({ name: slideName })}`);
  listMaps();
}

async function begin() {
  try {
    about = await ask(`/api/slides/about?${new URLSearchParams({ name: slideName })}`);
  } catch (error) { fail(error.message); return; }
  viewer = OpenSeadragon({
    element: byId("viewer"), drawer: "canvas", showNavigationControl: false, tileSources: source(),
    maxZoomPixelRatio: 4, animationTime: 0.4, tabIndex: "", imageLoaderLimit: 6, crossOriginPolicy: false,
  });
  viewer.addHandler("open", () => { scaleBar(); listMaps(); });
  viewer.addHandler("animation", scaleBar);
  viewer.addHandler("resize", scaleBar);
  viewer.addHandler("open-failed", () => fail("the slide cannot be shown"));
  viewer.addHandler("tile-load-failed", () => fail("a part of the slide cannot be read"));
  byId("viewer").addEventListener("pointermove", under);
  for (const id of ["opacity", "threshold"]) byId(id).addEventListener("input", draw);
  byId("classes").addEventListener("change", () => { draw(); regions(); });
  byId("maps").addEventListener("change", showMap);
  byId("called").addEventListener("click", () => { byId("threshold").value = Math.round(100 * overlay.map.threshold); draw(); });
}

begin();
