// What is picked: a box of the picture, a skip, an attention layer or a module. Everything else follows from it.
// Nothing of the record becomes markup: `element` creates elements and inserts strings as text.

const byId = (id) => document.getElementById(id);
const record = JSON.parse(byId("record").textContent);
const view = byId("view");
const panel = byId("panel");
const details = byId("details");
const start = [...details.children];
const hint = byId("hint").textContent;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function element(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside.filter((part) => part !== null && part !== ""));
  return made;
}

// A path may be broken after its dots, in the panel after its underscores too, before it is broken anywhere.
const breakable = (text, places = /(?<=[._])/) => text.split(places).flatMap((part, at) => (at ? [element("wbr"), part] : [part]));

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
const boxElements = new Map([...view.querySelectorAll(".ui-stage")].map((drawn) => [drawn.dataset.box, drawn]));
const placeOfSkip = new Map(record.skips.map((skip, at) => [skip.name, at]));
const skipElements = new Map([...view.querySelectorAll(".ui-skip")].map((drawn) => [placeOfSkip.get(drawn.dataset.skip), drawn]));
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

const withoutCall = (name) => name.replace(/ \(call \d+\)$/, "");

function boxOfPick(pick) {
  if (pick.kind === "stage") return pick.at;
  return pick.kind === "skip" ? null : boxOfPath(withoutCall(nameOf(pick)));
}

function lightUp(pick) {
  for (const lit of view.querySelectorAll(".lit, .picked")) lit.classList.remove("lit", "picked");
  for (const drawn of [...boxElements.values(), ...skipElements.values()]) drawn.setAttribute("aria-pressed", "false");
  view.classList.toggle("pinned", pinned !== null);
  if (pick === null) delete view.dataset.showing;
  else view.dataset.showing = pick.kind;
  if (pick === null) return;
  const drawn = drawnOf(pick);
  drawn?.setAttribute("aria-pressed", String(pinned !== null));
  const isSkip = pick.kind === "skip";
  const picked = isSkip ? pickedBySkip(record.skips[pick.at]) : pick.kind === "stage" ? [] : layersHolding(withoutCall(nameOf(pick)));
  for (const one of [drawn, ...picked]) one?.classList.add("lit", "picked");
  const box = record.boxes[boxOfPick(pick)];
  if (box) lightSkips(box);
}

const pickedBySkip = ({ from, to, sources, target }) => [
  boxElements.get(from), boxElements.get(to), ...[...sources, target].flatMap(layersHolding),
];

function lightSkips(box) {
  for (const place of [...box.made, ...box.taken]) {
    const { from, to } = record.skips[place];
    for (const drawn of [skipElements.get(place), boxElements.get(from), boxElements.get(to)]) drawn?.classList.add("lit");
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
  return { stage: record.boxes, skip: record.skips }[kind]?.[at].name ?? tables.get(kind).names[at];
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
  const places = { stage: [placeOfBox, boxOfStage], skip: [placeOfSkip] }[kind];
  const at = places ? places.map((place) => place.get(name)).find((place) => place !== undefined) : tables.get(kind).names.indexOf(name);
  return at === undefined || at < 0 ? null : { kind, at };
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
  refit();
  lightUp(pick);
  markRow(pick);
  writeHash(pick);
  say(`${details.querySelector("h2").textContent}, pinned. Escape clears.`);
}

function peek(pick) {
  if (pinned !== null || same(pick, peeked)) return;
  peeked = pick;
  byId("hint").textContent = (pick && drawnOf(pick)?.getAttribute("aria-label")) ?? hint;
  lightUp(pick);
}

function clear() {
  pinned = peeked = null;
  details.replaceChildren(...start);
  panel.hidden = true;
  byId("hint").textContent = hint;
  refit();
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
  return pick.kind === "skip" ? skipElements.get(pick.at) : boxElements.get(record.boxes[boxOfPick(pick) ?? -1]?.name);
}

function showInPicture(pick) {
  drawnOf(pick)?.scrollIntoView({ block: "center", inline: "center", behavior: calm.matches ? "auto" : "smooth" });
}
