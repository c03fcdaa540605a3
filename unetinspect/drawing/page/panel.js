// The panel of details: all that is known about the box, the skip, the attention layer or the module that is picked.

function linkTo(pick, text = nameOf(pick)) {
  return element("a", { href: hashOf(pick), class: "jump" }, ...breakable(text));
}

function linkToPath(path) {
  const at = tables.get("module").names.indexOf(path);
  return at < 0 ? path : linkTo({ kind: "module", at }, path);
}

const linkToBox = (name) => linkTo({ kind: "stage", at: placeOfBox.get(name) });

function factList(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== "" && value !== "-");
  return element("dl", {}, ...known.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, ...[value].flat())]));
}

function describe(pick) {
  const build = { stage: describeBox, skip: describeSkip }[pick.kind] ?? ((at, heading) => describeRow(pick, heading));
  const title = element("h2", { id: "details-title", tabindex: "-1" });
  details.replaceChildren(title, ...build(pick.at, title).filter(Boolean));
  panel.hidden = false;
  panel.scrollTop = 0;
}

function ofAll([, text, share], whole) {
  return share ? [text, element("small", {}, ` ${share} of the ${whole}`)] : text;
}

function describeBox(at, title) {
  const box = record.boxes[at];
  const roots = box.stages.map((stage) => tables.get("module").names.indexOf(stage));
  const alone = roots.length === 1;
  const written = alone && roots[0] >= 0 ? cellOf("module", roots[0], "class") : box.class;
  const inside = alone ? childrenOf(box.name) : roots;
  title.append(...breakable(box.name));
  return [
    element("p", { class: "class" }, written, element("span", { class: "role" }, box.role)),
    element("p", { class: "flow" }, box.in, element("span", { class: "to" }, " → "), box.out),
    factList([
      ["resolution", [box.size === "-" ? "" : box.size, box.channels === null ? "" : `${box.channels} channels`].filter(Boolean).join(", ")],
      ["params", ofAll(box.params, "UNet's")],
      ["MACs", box.macs === null ? null : ofAll(box.macs, "pass")],
      ["peak activations", box.peak],
      ["resnets", box.resnets ? String(box.resnets) : null],
      ["transformer blocks", box.transformer_blocks ? String(box.transformer_blocks) : null],
    ]),
    macsByKind(box.macs_by_kind),
    listOf("Attention", box.attentions, (row) => attentionLine(row), box.marks.join(", ")),
    listOf("Skips consumed", box.taken, (place) => skipLine(place, "from", shortSum(record.skips[place]))),
    listOf("Skips produced", box.made, (place) => skipLine(place, "to", record.skips[place].shape)),
    ...moduleTree(inside, (at) => alone && isList(at)),
  ];
}

function macsByKind(kinds) {
  if (!kinds.length) return null;
  const whole = kinds.reduce((sum, [, macs]) => sum + macs, 0);
  const parts = kinds.map(([name, macs]) => partOf(name, macs / whole));
  const words = kinds.map(([name, , text]) => element("li", { class: name }, `${name} ${text}`));
  const bar = element("div", { class: "parts", "aria-hidden": "true" }, ...parts);
  return element("div", { class: "split" }, bar, element("ul", { "aria-label": "MACs by kind" }, ...words));
}

function listOf(title, places, line, summary = "") {
  if (!places.length) return null;
  const list = element("ul", { class: "lines" }, ...places.map((place) => element("li", {}, ...line(place))));
  const count = element("span", { class: "count" }, String(places.length));
  const head = [`${title} `, count, summary ? element("small", {}, ` ${summary}`) : ""];
  if (places.length <= 4) return element("div", { class: "group" }, element("h3", {}, ...head), list);
  return element("details", { class: "group" }, element("summary", {}, element("h3", {}, ...head)), list);
}

function attentionLine(row) {
  const name = tables.get("attn").names[row];
  const box = record.boxes[boxOfPick({ kind: "attn", at: row })];
  const short = box?.stages.length === 1 ? name.slice(box.name.length + 1) : name;
  const what = ` ${cellOf("attn", row, "kind")} ${cellOf("attn", row, "map")}`;
  return [linkTo({ kind: "attn", at: row }, short || name), element("small", {}, what)];
}

const shortSum = (skip) => (skip.adds_up ? `${skip.hidden} + ${skip.skip} → ${skip.out ?? "?"}` : skip.sum);

function skipLine(place, end, what) {
  return [linkTo({ kind: "skip", at: place }, `skip ${record.skips[place].name}`), element("small", {}, ` ${end} ${record.skips[place][end]}: ${what}`)];
}

function describeSkip(at, title) {
  const skip = record.skips[at];
  title.append(`Skip ${skip.name}`, element("small", {}, ", numbered in production order from 0"));
  return [
    element("p", { class: "class" }, `${skip.from} → ${skip.to}`),
    stepButtons(),
    element("ol", { class: "way" }, ...skipWay(skip)),
    element("h3", {}, "Channels"),
    concatenation(skip),
    element("p", { class: skip.adds_up ? "sum" : "sum wrong" }, skip.sum),
    factList([
      ["1×1 shortcut", skip.shortcut ? linkToPath(skip.shortcut) : "none: the channels do not change"],
      ["concatenated in", skip.concat_in === "" ? "the UNet's own forward" : skip.concat_in],
      ["between", [linkToBox(skip.from), " and ", linkToBox(skip.to)]],
    ]),
  ];
}

function skipWay(skip) {
  const step = (title, ...inside) => element("li", { class: title === "tensor" ? title : null }, element("b", {}, title), ...inside);
  const sources = skip.sources.flatMap((path, at) => (at ? [" + ", linkToPath(path)] : [linkToPath(path)]));
  const consumed = skip.target_class + (skip.call ? `, call ${skip.call}` : "");
  return [
    step("produced by", ...sources, element("small", {}, skip.source_class)),
    step("tensor", skip.shape),
    ...(skip.way ? [step("changes", skip.way)] : []),
    step("consumed by", linkToPath(skip.target), element("small", {}, consumed)),
  ];
}

function stepButtons() {
  const previous = element("button", { type: "button", "data-step": "-1" }, "← previous skip");
  const next = element("button", { type: "button", "data-step": "1" }, "next skip →");
  return element("p", { class: "steps" }, previous, next);
}

function concatenation({ hidden, skip, out }) {
  const parts = [partOf("hidden", hidden, `hidden ${hidden}`), partOf("skip", skip, `skip ${skip}`)];
  return element("div", { class: "parts wide", "aria-hidden": "true" }, ...parts, element("span", { class: "out" }, ` → ${out ?? "?"}`));
}

// A part of a bar, as wide as its share of the whole.
function partOf(name, share, text = "") {
  const part = element("span", { class: `part ${name}` }, text);
  part.style.flexGrow = String(share);
  return part;
}

function rowFacts(kind, at) {
  const { heads } = tables.get(kind);
  return heads.slice(1).map((head) => [head, cellOf(kind, at, head)]);
}

function inBox(pick) {
  const box = boxOfPick(pick);
  return box === null ? null : element("p", { class: "class" }, "in ", linkTo({ kind: "stage", at: box }));
}

function describeRow(pick, title) {
  const tensors = pick.kind === "module" ? record.tensors.texts[record.tensors.of[pick.at]] : "";
  title.append(...breakable(nameOf(pick)));
  return [
    inBox(pick),
    factList([...rowFacts(pick.kind, pick.at), ["tensors", tensors]]),
    ...moduleTree(childrenOf(withoutCall(nameOf(pick))), isList),
  ];
}

let children = null;
function childrenOf(path) {
  const { names } = tables.get("module");
  children ??= Map.groupBy(names.keys(), (at) => names[at].slice(0, Math.max(0, names[at].lastIndexOf("."))));
  return children.get(path) ?? [];
}

const isList = (at) => /^Module(List|Dict)|^Sequential/.test(cellOf("module", at, "class"));

function moduleTree(places, isOpen) {
  if (!places.length) return [];
  return [element("h3", {}, "Modules"), element("ul", { class: "tree" }, ...places.map((at) => treeNode(at, isOpen(at))))];
}

// The children of a module are created when it is first opened: a UNet may have thousands of modules.
function treeNode(at, open) {
  const path = tables.get("module").names[at];
  const inside = childrenOf(path);
  if (!inside.length) return element("li", {}, element("div", { class: "leaf" }, ...treeLine(at, path)));
  const list = element("ul");
  const node = element("details", { open }, element("summary", {}, ...treeLine(at, path)), list);
  const fill = () => list.childElementCount || list.append(...inside.map((child) => treeNode(child, false)));
  if (open) fill();
  node.addEventListener("toggle", fill);
  return element("li", {}, node);
}

function treeLine(at, path) {
  const cell = (head) => cellOf("module", at, head);
  const ran = cell("calls") !== "";
  const shapes = ran ? `${cell("in")} → ${cell("out")}` : isList(at) ? "" : "not run";
  const macs = cell("MACs") && cell("MACs").replace(/(?<=\d)$/, " ") + "MACs";
  const params = { "": "", 1: "1 param" }[cell("params")] ?? `${cell("params")} params`;
  const costs = [params, macs, Number(cell("calls")) > 1 ? `${cell("calls")} calls` : ""];
  return [
    linkTo({ kind: "module", at }, boxOfStage.has(path) ? path : path.slice(path.lastIndexOf(".") + 1)),
    element("span", { class: "class" }, ` ${cell("class")}`),
    element("small", {}, [shapes, ...costs].filter(Boolean).join(" · ")),
  ];
}
