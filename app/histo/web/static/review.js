"use strict";
// A decision shows at once and is saved in the background, in order; what is not saved yet is kept
// and tried again, and the browser asks before it leaves the page.
const AHEAD = 8, BEHIND = 4, KINDS = ["patch", "surroundings"];
const byId = (id) => document.getElementById(id);
const name = byId("review").dataset.name;
const pictures = new Map();
let review = null, at = 0, waiting = [], saving = false;
const done = [];

function fail(text) { byId("problem").textContent = text; byId("problem").hidden = !text; }

async function ask(place, options) {
  const answer = await fetch(place, options);
  if (answer.ok) return answer;
  let detail = `${answer.status}`;
  try { detail = (await answer.json()).detail; } catch { /* no JSON */ }
  const error = new Error(typeof detail === "string" ? detail : "the server refuses it");
  error.status = answer.status;
  throw error;
}

// The patch itself, or what is around it in its slide: nothing where that is not known.
function picture(n, kind = "patch") {
  const id = review.suspects[n].id, key = `${kind} ${id}`;
  if (!pictures.has(key)) {
    const query = new URLSearchParams({ name, id });
    pictures.set(key, ask(`/api/reviews/${kind}?${query}`).then((answer) => answer.blob()).then((blob) => (blob.size ? URL.createObjectURL(blob) : "")));
    pictures.get(key).catch(() => pictures.delete(key));  // asked for again when it is shown again
  }
  return pictures.get(key);
}

function loadAround() {
  const first = Math.max(0, at - BEHIND), last = Math.min(review.suspects.length, at + AHEAD);
  const near = new Set();
  for (let n = first; n < last; n++) {
    for (const kind of KINDS) { near.add(`${kind} ${review.suspects[n].id}`); picture(n, kind); }
  }
  for (const [key, made] of pictures) {
    if (near.has(key)) continue;
    pictures.delete(key);
    made.then((url) => URL.revokeObjectURL(url), () => {});
  }
}

async function show() {
  const suspect = review.suspects[at], here = at;
  const count = review.suspects.filter((each) => each.decision).length;
  byId("progress").max = review.suspects.length;
  byId("progress").value = count;
  byId("status").textContent = `Patch ${at + 1} of ${review.suspects.length}; ${count} reviewed` + (waiting.length ? `; saving ${waiting.length}` : "; all saved");
  byId("question").textContent = `Labelled ${suspect.label}, seems ${suspect.suggested}`;
  byId("why").textContent = `${suspect.id}${suspect.group ? ` (${suspect.group})` : ""}. ${suspect.why}`;
  const words = { keep: "kept", change: `changed to ${suspect.corrected}`, unsure: "unsure", "": "" };
  byId("state").textContent = suspect.decision ? `Decided: ${words[suspect.decision]}${suspect.by ? `, by ${suspect.by}` : ""}` : "Not decided yet";
  byId("undo").disabled = !done.length;
  byId("right").value = suspect.corrected && suspect.decision === "change" ? suspect.corrected : suspect.suggested;
  byId("patch").hidden = false;
  loadAround();
  showAround(here, suspect);
  try {
    const url = await picture(here);
    if (here !== at) return;
    byId("picture").src = url;
    byId("picture").alt = `Patch ${suspect.id}`;
  } catch (error) {
    if (here !== at) return;
    byId("picture").removeAttribute("src");
    byId("picture").alt = error.message;
  }
}

async function showAround(here, suspect) {
  const url = await picture(here, "surroundings").catch(() => "");
  if (here !== at) return;
  byId("around").hidden = !url;
  if (url) byId("around-picture").src = url;
  byId("around-picture").alt = `What is around patch ${suspect.id} in its slide`;
}

async function save() {
  if (saving) return;
  saving = true;
  while (waiting.length) {
    const headers = { "content-type": "application/json" };
    try {
      await ask("/api/reviews/decision", { method: "POST", headers, body: JSON.stringify(waiting[0]) });
      waiting.shift();
      fail("");
    } catch (error) {
      fail(`Not saved yet: ${error.message}. Trying again; leave this page open.`);
      await new Promise((go) => setTimeout(go, 2000));
    }
    if (review) show();
  }
  saving = false;
}

function put(n, decision, label, by) {
  const suspect = review.suspects[n];
  suspect.decision = decision;
  suspect.corrected = { keep: suspect.label, change: label }[decision] ?? "";
  suspect.by = decision ? by : "";
  waiting.push({ name, id: suspect.id, decision, label: decision === "change" ? label : "", by });
  save();
}

function decide(decision) {
  const suspect = review.suspects[at];
  const label = byId("right").value || suspect.suggested;
  if (decision === "change" && label === suspect.label) { fail(`The label is ${label} already: keep it.`); return; }
  fail("");
  done.push({ at, decision: suspect.decision, label: suspect.corrected, by: suspect.by });
  put(at, decision, label, byId("by").value);
  go(1);
}

function undo() {
  const last = done.pop();
  if (!last) return;
  at = last.at;
  put(at, last.decision, last.label, last.by);
  show();
}

function go(step) {
  at = Math.min(Math.max(at + step, 0), review.suspects.length - 1);
  show();
}

const KEYS = {
  k: () => decide("keep"), c: () => decide("change"), u: () => decide("unsure"), z: undo,
  arrowleft: () => go(-1), arrowright: () => go(1),
};

async function begin() {
  try {
    review = await (await ask(`/api/reviews/table?${new URLSearchParams({ name })}`)).json();
  } catch (error) { fail(error.message); return; }
  if (!review.suspects.length) { byId("status").textContent = "No label is suspected."; return; }
  const classes = new Set([...review.classes, ...review.suspects.map((each) => each.suggested)]);
  for (const each of classes) byId("right").add(new Option(each, each));
  byId("choice").hidden = classes.size <= 2;
  at = Math.max(0, review.suspects.findIndex((each) => !each.decision));
  for (const id of ["keep", "change", "unsure"]) byId(id).addEventListener("click", () => decide(id));
  byId("undo").addEventListener("click", undo);
  byId("previous").addEventListener("click", () => go(-1));
  byId("next").addEventListener("click", () => go(1));
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT/.test(event.target.tagName)) return;
    const act = KEYS[event.key.toLowerCase()];
    if (!act || (event.repeat && !event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    act();
  });
  addEventListener("beforeunload", (event) => { if (waiting.length) event.preventDefault(); });
  show();
}

begin();
