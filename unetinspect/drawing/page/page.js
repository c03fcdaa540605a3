// What the pointer, the keys and the address do.

const drawing = view.querySelector("svg");
const { width: naturalWidth = 1000, height: naturalHeight = 1000 } = drawing?.viewBox.baseVal ?? {};
// What the picture fits, "width" or "window"; null: it has been made larger or smaller.
let fit = "width";

function pickOf(target) {
  const drawn = target.closest?.(".ui-skip, .ui-layer, .ui-stage");
  if (!drawn || !view.contains(drawn)) return null;
  if (drawn.classList.contains("ui-skip")) return { kind: "skip", at: placeOfSkip.get(drawn.dataset.skip) };
  const module = drawn.classList.contains("ui-layer") ? tables.get("module").names.indexOf(drawn.dataset.path) : -1;
  if (module >= 0) return { kind: "module", at: module };
  const at = placeOfBox.get(drawn.closest(".ui-stage")?.dataset.box);
  return at === undefined ? null : { kind: "stage", at };
}

function pickOfFocus(target) {
  const drawn = target.closest?.(".ui-skip, .ui-stage");
  return drawn === target ? pickOf(target) : null;
}

function listenPicture() {
  // A button inside a button cannot have a name: by keyboard, layers are reached in their box's list of modules.
  for (const drawn of layerElements) for (const name of ["tabindex", "role", "aria-label"]) drawn.removeAttribute(name);
  view.addEventListener("pointerover", (event) => event.pointerType !== "touch" && peek(pickOf(event.target)));
  view.addEventListener("pointerleave", () => peek(null));
  view.addEventListener("focusin", (event) => pickOfFocus(event.target) && peek(pickOfFocus(event.target)));
  view.addEventListener("focusout", () => peek(null));
  view.addEventListener("click", (event) => {
    const pick = pickOf(event.target);
    if (pick === null ? pinned !== null : same(pick, pinned)) clear();
    else if (pick !== null) {
      pin(pick);
      drawnOf(pick)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  });
  view.addEventListener("keydown", (event) => {
    const pick = pickOfFocus(event.target);
    if (pick === null || (event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    pin(pick);
    byId("details-title").focus({ preventScroll: true });
  });
}

function listenPanel() {
  byId("close").addEventListener("click", release);
  panel.addEventListener("click", (event) => {
    const step = event.target.closest("[data-step]");
    const link = event.target.closest("a.jump");
    if (step && pinned?.kind === "skip") {
      stepSkip(Number(step.dataset.step));
      panel.querySelector(`[data-step="${step.dataset.step}"]`).focus({ preventScroll: true });
    } else if (link && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const pick = pickOfHash(link.getAttribute("href"));
      pin(pick);
      showInPicture(pick);
      byId("details-title").focus({ preventScroll: true });
    }
  });
}

// Return the focus from the panel to the pinned thing in the picture.
function release() {
  const inPanel = panel.contains(document.activeElement);
  if (pinned && inPanel) drawnOf(pinned)?.focus({ preventScroll: true });
  clear();
}

function listenKeys() {
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key === "Escape" && pinned !== null && !typing?.value?.trim()) release();
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || pinned?.kind !== "skip" || typing || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    stepSkip(by);
    if (view.contains(document.activeElement)) skipElements.get(pinned.at)?.focus({ preventScroll: true });
  });
}

function setZoom(factor) {
  drawing.style.width = `${Math.floor(naturalWidth * factor)}px`;
  view.classList.toggle("zoomed", fit === null);
  view.dataset.factor = factor.toFixed(3);
}

// To fit the width never makes the words too small to read: the picture scrolls instead. To fit the window shows all of it.
function refit() {
  if (!drawing || fit === null) return;
  const width = view.clientWidth / naturalWidth;
  const height = (innerHeight - view.closest("section").firstElementChild.offsetHeight - 16) / naturalHeight;
  setZoom(fit === "window" ? Math.min(1.25, width, height) : Math.min(1.25, Math.max(width, 0.72)));
}

function listenZoom() {
  if (!drawing) return;
  refit();
  addEventListener("resize", refit);
  for (const button of document.querySelectorAll("[data-zoom]")) {
    const by = { in: 1.25, out: 0.8 }[button.dataset.zoom];
    button.addEventListener("click", () => {
      fit = by ? null : "window";
      if (by) setZoom(Math.min(4, Math.max(0.25, Number(view.dataset.factor) * by)));
      refit();
      if (!by) view.closest("section").scrollIntoView();
    });
  }
}

function openHash() {
  const tab = tabs.findIndex((link) => link.getAttribute("href") === location.hash);
  if (tab >= 0) openTab(tab);
  const pick = pickOfHash(location.hash);
  if (pick === null) return;
  openTab(sections.findIndex((section) => section.contains(tables.get(pick.kind).table)));
  pin(pick);
  showInPicture(pick);
}

for (const hidden of document.querySelectorAll("[data-script]")) hidden.hidden = false;
for (const [kind, shown] of tables) listen(kind, shown);
listenTabs();
openTab(0);
listenPicture();
listenPanel();
listenKeys();
listenZoom();
byId("theme").addEventListener("change", ({ target }) => (document.documentElement.style.colorScheme = target.value));
openHash();
addEventListener("hashchange", openHash);
