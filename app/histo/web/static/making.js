"use strict";
// Starting a map, following it by server-sent events, stopping it and going on.
const WORKING = ["starting", "running", "stopping"];
let events = null;

function left(now) {
  if (!now.done || !now.seconds) return "";
  return `, about ${Math.ceil((now.total - now.done) * now.seconds / now.done)} s left`;
}

function wordsOf(now) {
  const tiles = `${now.done} of ${now.total} tiles`;
  const words = {
    none: "", starting: "Opening the slide and the model …", running: `${tiles}${left(now)}`, stopping: `Stopping … ${tiles}`,
    stopped: `Stopped at ${tiles}: start again to go on.`, finished: `Finished. ${now.message}`, failed: `It failed: ${now.message}`,
  };
  return (now.slide && now.slide !== slideName ? `${now.slide}: ` : "") + words[now.state];
}

function showMaking(now) {
  const working = WORKING.includes(now.state);
  byId("making").textContent = wordsOf(now);
  byId("progress").hidden = !working;
  byId("progress").max = now.total || 1;
  byId("progress").value = now.done;
  if (!byId("make")) return working;
  byId("start").hidden = working;
  byId("start").textContent = now.state === "stopped" ? "Go on" : "Start";
  byId("stop").hidden = !working;
  byId("stop").disabled = now.state === "stopping";
  return working;
}

function follow() {
  events?.close();
  events = new EventSource("/api/slides/making/events");
  events.addEventListener("message", (event) => {
    const now = JSON.parse(event.data);
    if (showMaking(now)) return;
    events.close();
    if (now.state === "finished" && now.slide === slideName) renewMaps().catch((error) => fail(error.message));
  });
}

async function post(place, body) {
  const headers = { "content-type": "application/json" };
  return ask(place, { method: "POST", headers, body: body && JSON.stringify(body) });
}

async function start(event) {
  event.preventDefault();
  const number = (id) => Number(byId(id)?.value) || null;
  try {
    showMaking(await post("/api/slides/making", { slide: slideName, bundle: byId("bundle").value, mpp: number("mpp"), slide_mpp: number("slide-mpp") }));
    fail("");
    follow();
  } catch (error) { fail(error.message); }
}

function askMpp() {
  const known = byId("bundle").selectedOptions[0]?.dataset.mpp;
  byId("mpp-label").hidden = Boolean(known);
  byId("mpp").required = !known;
  if (known) byId("mpp").value = "";
}

async function resume() {
  if (byId("make")) {
    byId("make").addEventListener("submit", start);
    byId("stop").addEventListener("click", () => post("/api/slides/making/stop").then(showMaking, (error) => fail(error.message)));
    byId("bundle").addEventListener("change", askMpp);
    askMpp();
  }
  const now = await ask("/api/slides/making");
  if (now.state !== "finished" && showMaking(now)) follow();
}

resume().catch((error) => fail(error.message));
