"use strict";
// Patches are sent in parts, so that the page shows results early and no request is too large.
const PART = 64, PART_BYTES = 32 * 1024 * 1024, MOST = 5000;
const IMAGE = /\.(tiff?|png|jpe?g|bmp|webp)$/i;
const byId = (id) => document.getElementById(id);
let tables = [], running = 0;

function say(text) { byId("status").textContent = text; }
function fail(text) { byId("problem").textContent = text; byId("problem").hidden = !text; }

function parts(files) {
  const found = [];
  let part = [], bytes = 0;
  for (const file of files) {
    if (part.length === PART || (part.length && bytes + file.blob.size > PART_BYTES)) { found.push(part); part = []; bytes = 0; }
    part.push(file);
    bytes += file.blob.size;
  }
  return part.length ? [...found, part] : found;
}

async function ask(bundle, part, thumbnails) {
  const form = new FormData();
  form.append("bundle", bundle);
  form.append("tta", byId("tta").checked);
  form.append("thumbnails", thumbnails);
  for (const file of part) form.append("files", file.blob, file.name);
  for (let tries = 0; ; tries++) {
    const answer = await fetch("/api/predict", { method: "POST", body: form });
    if (answer.status === 429 && tries < 20) { await new Promise((go) => setTimeout(go, 3000)); continue; }
    if (answer.ok) return answer.json();
    const text = await answer.text();
    let detail = text;
    try { detail = JSON.parse(text).detail; } catch { /* a line of text */ }
    throw new Error(detail);
  }
}

function cell(row, text, kind) {
  const made = row.insertCell();
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function heads(models) {
  const row = document.createElement("tr");
  const names = ["patch", "id"];
  for (const model of models) names.push(`called by ${model.bundle}`, ...model.classes.map((name) => `p ${name}`));
  for (const name of names) {
    const head = document.createElement("th");
    head.scope = "col";
    head.textContent = name;
    row.append(head);
  }
  byId("results").tHead.replaceChildren(row);
}

function show(models) {
  if (!byId("results").tHead.rows.length) heads(models);
  models[0].predictions.forEach((first, n) => {
    const row = byId("results").tBodies[0].insertRow(), picture = row.insertCell();
    if (first.thumbnail) {
      const image = document.createElement("img");
      image.src = first.thumbnail;
      image.alt = `patch ${first.id}`;
      picture.append(image);
    }
    cell(row, first.id);
    for (const model of models) {
      const each = model.predictions[n];
      cell(row, each.error ?? each.predicted);
      for (const name of model.classes) cell(row, each.error ? "" : each.probabilities[name].toFixed(4), "number");
    }
  });
  byId("results").hidden = false;
}

async function predict(files) {
  const mine = ++running;
  const patches = files.filter((file) => IMAGE.test(file.name)).slice(0, MOST);
  const bundles = [byId("first").value, byId("second").value].filter(Boolean);
  tables = bundles.map(() => []);
  fail(patches.length ? "" : "None of these is a TIF, PNG, JPEG, BMP or WebP.");
  byId("results").hidden = byId("save").hidden = true;
  byId("results").tHead.replaceChildren();
  byId("results").tBodies[0].replaceChildren();
  let done = 0;
  try {
    for (const part of parts(patches)) {
      say(`${done} of ${patches.length} patches predicted …`);
      const models = [];
      for (const bundle of bundles) models.push(await ask(bundle, part, models.length === 0));
      if (mine !== running) return;
      models.forEach((model, n) => tables[n].push(model));
      show(models);
      done += part.length;
    }
  } catch (error) { fail(error.message); }
  say(`${done} of ${patches.length} patches predicted.` + (files.length > patches.length ? ` ${files.length - patches.length} files were left out.` : ""));
  byId("save").hidden = !done;
}

function csv() {
  const quote = (text) => {
    const value = String(text);
    return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  };
  const several = tables.length > 1, lines = [];
  const classes = tables[0][0].classes.map((name) => `p_${name}`);
  for (const [n, table] of tables.entries()) {
    const own = table[0].classes.map((name) => `p_${name}`);
    if (!n || own.join() !== classes.join()) lines.push([...(several ? ["bundle"] : []), "id", "predicted", ...own]);
    for (const part of table) {
      for (const each of part.predictions) {
        if (each.error) continue;
        lines.push([...(several ? [part.bundle] : []), each.id, each.predicted, ...part.classes.map((name) => each.probabilities[name])]);
      }
    }
  }
  return lines.map((line) => line.map(quote).join(",")).join("\n") + "\n";
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function filesOf(entry, prefix) {
  if (entry.isFile) return new Promise((take, refuse) => entry.file((blob) => take([{ blob, name: prefix + blob.name }]), refuse));
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((take, refuse) => reader.readEntries(take, refuse));
    if (!some.length || found.length > MOST) return found;
    for (const each of some) found.push(...await filesOf(each, `${prefix}${entry.name}/`));
  }
}

async function dropped(event) {
  event.preventDefault();
  byId("drop").classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const found = [];
  for (const entry of entries) found.push(...await filesOf(entry, ""));
  found.sort((a, b) => (a.name < b.name ? -1 : 1));
  await predict(found);
}

if (byId("drop")) {
  byId("files").addEventListener("change", (event) => predict([...event.target.files].map((blob) => ({ blob, name: blob.name }))));
  byId("drop").addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
  byId("drop").addEventListener("dragleave", () => byId("drop").classList.remove("over"));
  byId("drop").addEventListener("drop", dropped);
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("save").addEventListener("click", save);
}
