// What is picked: a box of the picture, a skip, an attention layer or a module. Everything else follows from it.
// Nothing of the record ever becomes markup: elements are made by `element`, which puts texts in as text.

const byId = (id) => document.getElementById(id);
const record = JSON.parse(byId("record").textContent);
const view = byId("view");
const panel = byId("panel");
const details = byId("details");
const start = [...details.children];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.filter((part) => part !== null && part !== ""));
  return made;
}

// A path may be broken after its dots and underscores, before it is broken anywhere.
const breakable = (text) => text.split(/(?<=[._])/).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));

// The rows of each table, by what picking one of them picks; a row's place here is its place in the record.
const tables = new Map();
for (const table of document.querySelectorAll("table[data-pick]")) {
  const rows = [...table.tBodies[0].querySelectorAll("tr:not(.empty)")];
  const heads = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
  tables.set(table.dataset.pick, { table, rows, heads, names: rows.map((row) => row.cells[0].textContent) });
}
const cellOf = (kind, at, head) => tables.get(kind).rows[at].cells[tables.get(kind).heads.indexOf(head)].textContent;

const placeOfBox = new Map(record.boxes.map((box, at) => [box.name, at]));
const boxOfStage = new Map(record.boxes.flatMap((box, at) => box.stages.map((stage) => [stage, at])));
const boxElements = new Map();
for (const drawn of view.querySelectorAll(".ui-stage")) boxElements.set(drawn.dataset.box, drawn);
const skipElements = new Map();
for (const drawn of view.querySelectorAll(".ui-skip")) {
  const place = Number(drawn.dataset.skip);
  skipElements.set(place, [...(skipElements.get(place) ?? []), drawn]);
}
const layerElements = [...view.querySelectorAll(".ui-layer")];

function boxOfPath(path) {
  for (let part = path; part; part = part.slice(0, Math.max(0, part.lastIndexOf(".")))) {
    if (boxOfStage.has(part)) return boxOfStage.get(part);
  }
  return null;
}

const layersHolding = (path) => layerElements.filter(({ dataset }) => path === dataset.path || path.startsWith(`${dataset.path}.`));

// A pick is {kind, at}: a box by its place in the record, the others by their row.
let pinned = null;
let peeked = null;
const same = (one, other) => one?.kind === other?.kind && one?.at === other?.at;

function boxOfPick({ kind, at }) {
  if (kind === "stage") return at;
  if (kind === "attn") return boxOfPath(withoutCall(cellOf("attn", at, "attention layer")));
  return kind === "module" ? boxOfPath(tables.get("module").names[at]) : null;
}

const withoutCall = (name) => name.replace(/ \(call \d+\)$/, "");

function lightUp(pick) {
  for (const lit of view.querySelectorAll(".lit, .picked")) lit.classList.remove("lit", "picked");
  for (const drawn of boxElements.values()) drawn.setAttribute("aria-pressed", "false");
  for (const drawn of [...skipElements.values()].flat()) drawn.setAttribute("aria-pressed", "false");
  view.classList.toggle("pinned", pinned !== null);
  if (pick === null) delete view.dataset.showing;
  else view.dataset.showing = pick.kind;
  if (pick?.kind === "skip") lightSkip(pick.at);
  else if (pick !== null) lightBox(pick, boxOfPick(pick));
}

function lightSkip(at) {
  const skip = record.skips[at];
  for (const name of [skip.from, skip.to]) boxElements.get(name)?.classList.add("lit", "picked");
  for (const path of [...skip.sources, skip.target]) layersHolding(path).forEach((drawn) => drawn.classList.add("lit", "picked"));
  for (const drawn of skipElements.get(at) ?? []) {
    drawn.classList.add("lit", "picked");
    drawn.setAttribute("aria-pressed", String(pinned !== null));
  }
}

function lightBox(pick, at) {
  if (at === null) return;
  const box = record.boxes[at];
  const drawn = boxElements.get(box.name);
  drawn?.classList.add("lit", "picked");
  drawn?.setAttribute("aria-pressed", String(pinned !== null));
  const path = pick.kind === "stage" ? null : withoutCall(tables.get(pick.kind).names[pick.at]);
  if (path !== null) layersHolding(path).forEach((layer) => layer.classList.add("lit", "picked"));
  for (const place of [...box.made, ...box.taken]) {
    skipElements.get(place)?.forEach((skip) => skip.classList.add("lit"));
    for (const name of [record.skips[place].from, record.skips[place].to]) boxElements.get(name)?.classList.add("lit");
  }
}

function markRow(pick) {
  for (const marked of document.querySelectorAll("tr.picked")) {
    marked.classList.remove("picked");
    marked.cells[0].firstElementChild?.removeAttribute("aria-current");
  }
  if (pick === null) return;
  const places = pick.kind === "stage" ? record.boxes[pick.at].stages.map((name) => tables.get("stage").names.indexOf(name)) : [pick.at];
  for (const place of places) {
    const row = tables.get(pick.kind).rows[place];
    row?.classList.add("picked");
    row?.cells[0].firstElementChild?.setAttribute("aria-current", "true");
  }
}

function nameOf({ kind, at }) {
  if (kind === "skip") return String(at);
  return kind === "stage" ? record.boxes[at].name : tables.get(kind).names[at];
}

const hashOf = (pick) => `#${pick.kind}=${encodeURIComponent(nameOf(pick))}`;

function pickOfHash(hash) {
  const [, kind, encoded] = /^#(stage|skip|attn|module)=(.*)$/.exec(hash) ?? [];
  if (!kind) return null;
  let name;
  try {
    name = decodeURIComponent(encoded);
  } catch {
    return null;
  }
  if (kind === "skip") return /^\d+$/.test(name) && Number(name) < record.skips.length ? { kind, at: Number(name) } : null;
  const at = kind === "stage" ? (placeOfBox.get(name) ?? boxOfStage.get(name) ?? -1) : tables.get(kind).names.indexOf(name);
  return at < 0 ? null : { kind, at };
}

function writeHash(pick) {
  try {
    history.replaceState(null, "", pick === null ? location.pathname + location.search : hashOf(pick));
  } catch {
    // A frame without an address of its own keeps none.
  }
}

function say(text) {
  byId("said").textContent = text;
}

function pin(pick) {
  pinned = pick;
  peeked = null;
  describe(pick);
  lightUp(pick);
  markRow(pick);
  writeHash(pick);
  say(`${details.querySelector("h2").textContent}, pinned. Escape lets go.`);
}

function peek(pick) {
  if (pinned !== null || same(pick, peeked)) return;
  peeked = pick;
  if (pick !== null) describe(pick);
  lightUp(pick);
}

function letGo() {
  pinned = peeked = null;
  details.replaceChildren(...start);
  panel.classList.remove("full");
  byId("close").hidden = true;
  lightUp(null);
  markRow(null);
  writeHash(null);
  say("Nothing is pinned.");
}

function stepSkip(by) {
  const count = record.skips.length;
  pin({ kind: "skip", at: (pinned.at + by + count) % count });
}

function drawnOf(pick) {
  return pick.kind === "skip" ? skipElements.get(pick.at)?.[0] : boxElements.get(record.boxes[boxOfPick(pick) ?? -1]?.name);
}

function showInPicture(pick) {
  drawnOf(pick)?.scrollIntoView({ block: "center", inline: "center", behavior: calm.matches ? "auto" : "smooth" });
}
