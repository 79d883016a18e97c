"use strict";
// Patches are sent in parts, so that the page shows results early and no request is too large.
const PART = 64, PART_BYTES = 32 * 1024 * 1024, MOST = 5000;
const IMAGE = /\.(tiff?|png|jpe?g|bmp|webp|zip)$/i, ZIP = /\.zip$/i;
const LOOKED = 64, LOOKED_PART = 16, LEAST = 0.0005;
const byId = (id) => document.getElementById(id);
let tables = [], running = 0;

function say(text) { byId("status").textContent = text; }
function fail(text) { byId("problem").textContent = text; byId("problem").hidden = !text; }

function parts(files) {
  const found = [];
  let part = [], bytes = 0;
  for (const file of files) {
    const most = byId("looked").checked && found.length * LOOKED_PART < LOOKED ? LOOKED_PART : PART;
    if (part.length >= most || (part.length && (ZIP.test(file.name) || ZIP.test(part[0].name))) || (part.length && bytes + file.blob.size > PART_BYTES)) { found.push(part); part = []; bytes = 0; }
    part.push(file);
    bytes += file.blob.size;
  }
  return part.length ? [...found, part] : found;
}

async function ask(bundle, part, thumbnails, looked) {
  const form = new FormData();
  form.append("bundle", bundle);
  form.append("tta", byId("tta").checked);
  form.append("thumbnails", thumbnails);
  form.append("looked", looked);
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

function pictureOf(thumbnail, alt, kind = "") {
  return Object.assign(document.createElement("img"), { src: thumbnail, alt, className: kind });
}

// Where the model looked, over the patch in grey: on stained tissue, red and blue would not be seen.
function looks(grid, thumbnail, bundle) {
  const canvas = document.createElement("canvas"), side = grid.length, context = canvas.getContext("2d");
  canvas.width = canvas.height = side;
  const most = Math.max(...grid.flat().map(Math.abs)), picture = context.createImageData(side, side);
  const weight = (value) => Math.round(255 * Math.abs(value) / Math.max(LEAST, most));
  grid.flat().forEach((value, n) => picture.data.set([value > 0 ? 213 : 0, 70, value > 0 ? 0 : 190, weight(value)], 4 * n));
  context.putImageData(picture, 0, 0);
  const box = document.createElement("figure"), words = document.createElement("figcaption"), over = document.createElement("div");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `where ${bundle} looked`);
  words.className = "small";
  words.textContent = most < LEAST ? "no place matters" : `at most ${most.toFixed(3)}`;
  over.className = "patch-picture";
  over.append(pictureOf(thumbnail, "", "grey"), canvas);
  box.append(over, words);
  return box;
}

function drift(models) {
  for (const model of models) {
    if (!model.drift) continue;
    const note = document.createElement("p");
    note.className = "note warning";
    note.textContent = `On average, the patches look unlike those that ${model.bundle} was trained on (standard deviations from their mean: ${model.drift}). Its probabilities may be wrong here.`;
    if (![...byId("drift").children].some((each) => each.textContent.includes(` ${model.bundle} `))) byId("drift").append(note);
  }
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
      const seen = models.filter((model) => model.predictions[n].looked), side = document.createElement("div");
      side.className = "beside";
      side.append(pictureOf(first.thumbnail, `patch ${first.id}`));
      side.append(...seen.map((model) => looks(model.predictions[n].looked, first.thumbnail, model.bundle)));
      picture.append(side);
    }
    cell(row, first.id, "id");
    for (const model of models) {
      const each = model.predictions[n];
      cell(row, each.error ?? each.predicted);
      for (const name of model.classes) cell(row, each.error ? "" : each.probabilities[name].toFixed(4), "number");
    }
  });
  byId("results").hidden = byId("results-note").hidden = false;
}

async function predict(files) {
  const mine = ++running;
  const patches = files.filter((file) => IMAGE.test(file.name)).slice(0, MOST);
  const bundles = [byId("first").value, byId("second").value].filter(Boolean);
  tables = bundles.map(() => []);
  fail(patches.length ? "" : "None of these is a TIF, PNG, JPEG, BMP or WebP.");
  byId("results").hidden = byId("results-note").hidden = byId("save").hidden = true;
  byId("results").tHead.replaceChildren();
  byId("results").tBodies[0].replaceChildren();
  byId("drift").replaceChildren();
  byId("looked-note").hidden = !byId("looked").checked;
  let done = 0, count = patches.length;
  try {
    for (const part of parts(patches)) {
      say(`${done} of ${count} patches predicted …`);
      const models = [], looked = byId("looked").checked && done < LOOKED;
      for (const bundle of bundles) models.push(await ask(bundle, part, models.length === 0, looked));
      if (mine !== running) return;
      drift(models);
      models.forEach((model, n) => tables[n].push(model));
      show(models);
      done += models[0].predictions.length;
      count += models[0].predictions.length - part.length;  // of a ZIP only the server knows how many
    }
  } catch (error) { fail(error.message); }
  say(`${done} of ${count} patches predicted.` + (files.length > patches.length ? ` ${files.length - patches.length} files were left out.` : ""));
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
