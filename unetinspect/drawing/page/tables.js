// Tables: search, filter by kind, sort, copy. Rows are only hidden and reordered, never created or changed.

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
// Laying out thousands of rows takes a browser seconds: the first matching rows are shown, all of them on request.
const ROWS_AT_ONCE = 250;
const placeOfRow = new WeakMap();

function listen(kind, shown) {
  const { table, rows, heads } = shown;
  const section = table.closest("section");
  const search = section.querySelector("input[type=search]");
  Object.assign(shown, { section, search, texts: null, all: rows.length <= ROWS_AT_ONCE, sorted: { column: -1, turns: 0 } });
  rows.forEach((row, at) => placeOfRow.set(row, { kind, at }));
  heads.forEach((head, column) => {
    const cell = table.tHead.rows[0].cells[column];
    const button = element("button", { type: "button" }, head);
    cell.replaceChildren(button);
    button.addEventListener("click", () => sort(shown, column));
  });
  section.addEventListener("input", () => narrow(shown));
  section.querySelector("button.copy")?.addEventListener("click", (event) => copyPaths(shown, event.currentTarget));
  section.querySelector("button.all")?.addEventListener("click", () => {
    shown.all = true;
    narrow(shown);
  });
  table.tBodies[0].addEventListener("click", (event) => pickRow(event));
  table.tBodies[0].addEventListener("keydown", (event) => walkRows(event));
}

// Rows get their links when their table is first shown; Tab reaches one of them, the arrow keys the others.
function linkRows(kind) {
  const { rows, names } = tables.get(kind);
  if (!rows.length || rows[0].cells[0].firstElementChild) return;
  rows.forEach((row, at) => {
    const pick = kind === "stage" ? { kind, at: boxOfStage.get(names[at]) } : { kind, at };
    const href = kind === "stage" ? `#stage=${encodeURIComponent(names[at])}` : hashOf(pick);
    row.cells[0].replaceChildren(element("a", { href, tabindex: at ? "-1" : "0" }, ...breakable(names[at], /(?<=\.)/)));
  });
  if (pinned !== null) markRow(pinned);
}

function makeReachable(shown, row) {
  for (const link of shown.table.querySelectorAll("tbody a[tabindex='0']")) link.tabIndex = -1;
  const link = row?.cells[0].firstElementChild;
  if (link) link.tabIndex = 0;
}

const visibleRows = (shown) => [...shown.table.tBodies[0].rows].filter((row) => !row.hidden && placeOfRow.has(row));

// Search as it is typed: ignoring case, "x" for "×".
const plain = (text) => text.toLowerCase().replaceAll("×", "x");

function narrow(shown) {
  shown.texts ??= new Map(shown.rows.map((row) => [row, plain([...row.cells].map((cell) => cell.textContent).join(" "))]));
  const words = plain(shown.search?.value ?? "").split(/\s+/).filter(Boolean);
  const kind = shown.section.querySelector("input[type=radio]:checked")?.value ?? "";
  const fits = (row) => (!kind || row.dataset.kind === kind) && words.every((word) => shown.texts.get(row).includes(word));
  shown.fitting = [...shown.table.tBodies[0].rows].filter((row) => placeOfRow.has(row) && fits(row));
  const visible = new Set(shown.all ? shown.fitting : shown.fitting.slice(0, ROWS_AT_ONCE));
  for (const row of shown.rows) if (row.hidden === visible.has(row)) row.hidden = !visible.has(row);
  makeReachable(shown, shown.fitting[0]);
  count(shown, visible.size);
}

function count(shown, visible) {
  const { fitting, rows, section, table } = shown;
  const nouns = `${table.dataset.noun}${rows.length === 1 ? "" : "s"}`;
  const found = fitting.length === rows.length ? `${rows.length} ${nouns}` : `${fitting.length} of ${rows.length} ${nouns}`;
  const first = visible < fitting.length ? `, the first ${visible} shown` : fitting.length < rows.length ? " shown" : "";
  section.querySelector(".status").textContent = found + first;
  const all = section.querySelector("button.all");
  if (all) all.hidden = visible === fitting.length;
  if (all) all.textContent = `Show all ${fitting.length}`;
}

function valueOf(row, column) {
  const cell = row.cells[column];
  return Number.parseFloat(cell.dataset.value ?? cell.textContent);
}

// A click on a heading sorts, the largest number or the first name first; a second reverses the order; a third restores it.
function sort(shown, column) {
  const cells = [...shown.table.tHead.rows[0].cells];
  const numeric = cells[column].classList.contains("n");
  const { sorted } = shown;
  const turns = sorted.column === column ? sorted.turns + 1 : 0;
  shown.sorted = turns === 2 ? { column: -1, turns: 0 } : { column, turns };
  const down = numeric === (turns === 0);
  for (const cell of cells) cell.removeAttribute("aria-sort");
  if (turns < 2) cells[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const order = turns === 2 ? shown.rows : inOrder(shown.rows, column, numeric, down);
  shown.table.tBodies[0].append(...order);
  narrow(shown);
  say(turns === 2 ? "Original order." : `Sorted by ${shown.heads[column]}, ${down ? "descending" : "ascending"}.`);
}

// Rows without a value come last either way; equal rows stay in their own order.
function inOrder(rows, column, numeric, down) {
  const sign = down ? -1 : 1;
  const textOf = (row) => row.cells[column].textContent;
  if (!numeric) return rows.toSorted((one, other) => sign * collator.compare(textOf(one), textOf(other)));
  const values = new Map(rows.map((row) => [row, valueOf(row, column)]));
  return rows.toSorted((one, other) => {
    const [a, b] = [values.get(one), values.get(other)];
    return Number.isNaN(a) || Number.isNaN(b) ? Number(Number.isNaN(a)) - Number(Number.isNaN(b)) : sign * (a - b);
  });
}

function pickRow(event) {
  const row = event.target.closest("tr");
  const place = placeOfRow.get(row);
  if (!place || event.ctrlKey || event.metaKey || String(getSelection())) return;
  event.preventDefault();
  makeReachable(tables.get(place.kind), row);
  const name = tables.get(place.kind).names[place.at];
  const pick = place.kind === "stage" ? { kind: "stage", at: boxOfStage.get(name) } : place;
  if (same(pick, pinned)) clear();
  else pin(pick);
}

function walkRows(event) {
  const row = event.target.closest("tr");
  const shown = tables.get(placeOfRow.get(row)?.kind);
  const ways = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  if (!shown || !(event.key in ways)) return;
  event.preventDefault();
  const rows = visibleRows(shown);
  const next = rows[Math.min(rows.length - 1, Math.max(0, rows.indexOf(row) + ways[event.key]))];
  makeReachable(shown, next);
  next.cells[0].firstElementChild?.focus();
}

async function copyPaths(shown, button) {
  const rows = shown.fitting;
  const text = rows.map((row) => withoutCall(row.cells[0].textContent)).join("\n");
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copied = copyByHand(text);
  }
  const lines = `${rows.length} ${rows.length === 1 ? "path" : "paths"}`;
  button.textContent = copied ? `Copied ${lines}` : "Not permitted";
  say(copied ? `${lines} copied.` : "The browser does not allow copying.");
  setTimeout(() => (button.textContent = "Copy paths"), 2000);
}

// Without permission for the clipboard, selected text can often be copied all the same.
function copyByHand(text) {
  const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
  const focused = document.activeElement;
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

const tabs = [...byId("tabs").querySelectorAll("a")];
const sections = tabs.map((tab) => byId(tab.getAttribute("href").slice(1)));

function openTab(at, focus = false) {
  tabs.forEach((tab, place) => {
    tab.setAttribute("aria-selected", String(place === at));
    tab.tabIndex = place === at ? 0 : -1;
    sections[place].classList.toggle("open", place === at);
  });
  narrow(tables.get(sections[at].querySelector("table").dataset.pick));
  linkRows(sections[at].querySelector("table").dataset.pick);
  if (focus) tabs[at].focus();
}

function listenTabs() {
  byId("tabs").setAttribute("role", "tablist");
  byId("tabs").setAttribute("aria-label", "Tables");
  tabs.forEach((tab, at) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", sections[at].id);
    sections[at].setAttribute("role", "tabpanel");
    sections[at].setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      openTab(at);
    });
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (next === undefined && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      openTab(next === undefined ? at : (next + tabs.length) % tabs.length, true);
    });
  });
}
