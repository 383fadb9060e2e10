// ---- The legend.

// More rows than anyone scrolls through; the search finds the others.
const MOST_ROWS = 1000;
const toldApart = datasets.length > 1 && datasets.length <= MOST_TOLD;

// The codes of the legend's rows: categories of which there are cells, then cells without a value.
function codesInLegend(column) {
  const codes = [];
  for (let code = FIRST; column.categories && code < column.size; code++) codes.push(code);
  codes.push(MISSING, ABSENT);
  const words = search.trim().toLowerCase();
  return codes.filter((code) => column.total(code) && (!words || valueText(column, code).toLowerCase().includes(words)));
}

function showLegend() {
  const legend = byId("legend");
  const hidden = element("div", { className: "row" },
    element("p", { id: "hidden", className: "faint" }),
    button("show all cells", "Remove all filters", () => {
      columns.forEach(clearFilter);
      changed();
      // The button is gone.
      byId("color").focus();
    }, { id: "unhide" }),
  );
  const parts = by === datasetColumn ? [] : by.categories ? [searchField()] : [colorBar(), rangeFields()];
  legend.replaceChildren(...parts, hidden, element("div", { id: "rows" }));
  hidden.firstChild.setAttribute("role", "status");
  showRows();
}

function button(text, title, act, properties = {}) {
  const made = element("button", { type: "button", title, ...properties }, text);
  made.addEventListener("click", act);
  return made;
}

function searchField() {
  const field = element("input", { type: "search", id: "search", placeholder: `search ${by.name}`, value: search });
  field.setAttribute("aria-label", `search ${by.name}`);
  field.addEventListener("input", () => { search = field.value; showRows(); });
  const set = (text, title, pass) =>
    button(text, title, () => { pass(new Set(codesInLegend(by))); changed(); }, { id: `show-${text}` });
  return element("div", { className: "row" }, field,
    set("all", "Show those listed below", (listed) => listed.forEach((code) => { by.pass[code] = 1; })),
    set("none", "Hide those listed below", (listed) => listed.forEach((code) => { by.pass[code] = 0; })),
    set("only", "Show those listed below, and no others", (listed) => {
      by.pass.fill(0);
      listed.forEach((code) => { by.pass[code] = 1; });
    }),
  );
}

function colorBar() {
  const bar = element("div", { id: "bar" });
  bar.style.background = `linear-gradient(to right, ${content.ramp[theme()].join(", ")})`;
  const ends = by.limits.map((limit) => element("span", {}, numberText(limit, by.step)));
  const unit = by.gene ? [element("span", {}, content.genes.unit)] : [];
  return element("div", {}, bar, element("div", { className: "ends" }, ends[0], ...unit, ends[1]));
}

function rangeFields() {
  const field = (end) => {
    const made = element("input", { type: "number", step: "any", id: end, value: by[end] ?? "" });
    made.addEventListener("input", () => {
      by[end] = Number.isFinite(made.valueAsNumber) ? made.valueAsNumber : null;
      filterNumbers(by);
      changed(false);
    });
    return element("label", {}, end === "from" ? "Show from" : "to", made);
  };
  return element("div", { className: "row" }, field("from"), field("to"));
}

function showRows() {
  const codes = codesInLegend(by);
  const rows = codes.slice(0, MOST_ROWS).map(legendRow);
  const heads = ["", ...(toldApart ? datasets : ["cells"])].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  const notes = [];
  if (codes.length > MOST_ROWS) notes.push(`${count(codes.length - MOST_ROWS)} more: search for them.`);
  if (by.categories && new Set(by.light).size < by.categories.length) {
    notes.push("Colours come round again: point at a name to see its cells.");
  }
  if (!codes.length && by.categories) notes.push(search.trim() ? "Nothing of that name." : "There are no values.");
  const faint = notes.map((note) => element("p", { className: "faint" }, note));
  byId("rows").replaceChildren(...(codes.length ? [table] : []), ...faint);
}

function legendRow(code) {
  const text = valueText(by, code);
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = code < FIRST ? content.grey[theme()] : by[theme()][code - FIRST];
  const label = checkbox("", by.pass[code], (on) => { by.pass[code] = on; changed(); });
  label.append(swatch, element("span", {}, text));
  const only = () => {
    by.pass.fill(0);
    by.pass[code] = 1;
    changed();
  };
  const acts = element("span", { className: "acts" },
    button("select", `Add to the selection: ${text}`, () => select((i) => by.codes[i] === code, true), { className: "select" }),
    ...(by.categories ? [button("only", `Show only ${text}`, only, { className: "only" })] : []),
  );
  for (const act of acts.children) act.setAttribute("aria-label", act.title);
  const numbers = toldApart ? by.counts.map((counts) => counts[code]) : [by.total(code)];
  const counts = numbers.map((number) => element("td", {}, count(number)));
  const row = element("tr", {}, element("td", {}, label, acts), ...counts);
  row.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") highlight(code); });
  row.addEventListener("pointerleave", () => highlight(-1));
  // Who goes through the rows by keys sees their cells, too.
  row.addEventListener("focusin", (event) => { if (event.target.matches(":focus-visible")) highlight(code); });
  row.addEventListener("focusout", () => highlight(-1));
  return row;
}

// How many cells are hidden, and by what.
function showHidden() {
  const here = [...by.pass.keys()].filter((code) => !by.pass[code] && by.total(code));
  const hidden = n - nShown(), byLegend = here.reduce((sum, code) => sum + by.total(code), 0);
  const labels = here.filter((code) => code >= FIRST).length, noun = by === datasetColumn ? "dataset" : "label";
  const parts = [];
  if (byLegend) parts.push(`${many(byLegend, "cell")}${by.categories && labels ? ` of ${many(labels, noun)}` : ""}`);
  if (hidden > byLegend) parts.push(`${many(hidden - byLegend, "cell")} by other filters`);
  byId("hidden").textContent = hidden ? `Hidden: ${parts.join(", and ")}.` : "No cells are hidden.";
  byId("unhide").hidden = !hidden;
}
