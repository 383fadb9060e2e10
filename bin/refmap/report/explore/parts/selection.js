// ---- Selected cells.

// Of a composition.
const MOST_PARTS = 20;

// A function of a cell's number tells which; only cells that are shown can be selected.
function select(wanted, more = false) {
  for (let i = 0; i < n; i++) selected[i] = (more && selected[i]) || (shown[i] && wanted(i)) ? 1 : 0;
  nSelected = selected.reduce((sum, one) => sum + one, 0);
  showSelection();
  colorCells();
}

function showSelection() {
  for (const id of ["save", "clear"]) byId(id).disabled = !nSelected;
  byId("save").disabled ||= !names;
  byId("save").title = names || !namesRead ? "" : "The names of these cells are not in this page: they would take too much room.";
  byId("select-shown").disabled = !nShown();
  byId("selected").textContent = nSelected ? selectionText() : "No cells are selected: draw around some with the lasso, or select by the legend.";
  byId("composition").replaceChildren(...(nSelected ? [by.categories ? partsTable() : numbersText()] : []));
}

function selectionText() {
  const of = datasets.map(() => 0);
  let hidden = 0;
  for (let i = 0; i < n; i++) {
    of[datasetOf(i)] += selected[i];
    hidden += selected[i] && !shown[i] ? 1 : 0;
  }
  return `${many(nSelected, "cell")} selected${split(of)}${hidden ? `; ${count(hidden)} of them are hidden` : ""}.`;
}

function countSelected() {
  const counts = new Uint32Array(by.size);
  for (let i = 0; i < n; i++) counts[by.codes[i]] += selected[i];
  return counts;
}

function partsTable() {
  const counts = countSelected();
  const codes = [...counts.keys()].filter((code) => counts[code]).sort((a, b) => counts[b] - counts[a] || a - b);
  const rows = codes.slice(0, MOST_PARTS).map((code) => [valueText(by, code), counts[code]]);
  const others = codes.slice(MOST_PARTS);
  if (others.length) rows.push([`${count(others.length)} others`, others.reduce((sum, code) => sum + counts[code], 0)]);
  const cells = ([name, some]) => [name, count(some), `${(100 * some / nSelected).toFixed(1)}%`].map((text) => element("td", {}, text));
  const heads = [by.name, "cells", "share"].map((text) => element("th", { scope: "col" }, text));
  return element("table", {},
    element("thead", {}, element("tr", {}, ...heads)),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row)))),
  );
}

function numbersText() {
  const counts = countSelected();
  let known = 0, sum = 0, above = 0;
  for (let code = FIRST; code < by.size; code++) {
    known += counts[code];
    sum += counts[code] * numberOf(by, code);
    if (numberOf(by, code) > 0) above += counts[code];
  }
  let median = FIRST;
  for (let below = counts[FIRST]; 2 * below < known; below += counts[median]) median++;
  const share = by.gene && known ? `, above 0 in ${(100 * above / known).toFixed(1)}%` : "";
  const text = known
    ? `${by.name}: mean ${numberText(sum / known, 0)}, median ${numberText(numberOf(by, median), by.step)}${share}, of ${many(known, "cell")} with a value.`
    : `${by.name}: none of them has a value.`;
  return element("p", { className: "faint" }, text);
}

// By RFC 4180.
const quote = (text) => `"${text.replaceAll('"', '""')}"`;

function selectionTable() {
  const rows = [["cell", ...(datasets.length > 1 && by !== datasetColumn ? [datasetColumn.name] : []), by.name]];
  for (let i = 0; i < n; i++) {
    if (!selected[i] || i < firstNamed) continue;
    const code = by.codes[i];
    const value = code < FIRST ? "" : valueText(by, code);
    rows.push([nameOf(i), ...(rows[0].length > 2 ? [datasets[datasetOf(i)]] : []), value]);
  }
  return rows.map((row) => `${row.map(quote).join(",")}\r\n`).join("");
}

byId("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([selectionTable()], { type: "text/csv;charset=utf-8" }));
  const name = `${document.title.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) || "cells"}_selected.csv`;
  element("a", { href: address, download: name }).click();
  // The browser has taken hold of it by then.
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});
byId("clear").addEventListener("click", () => { select(() => false); byId("select-shown").focus(); });
byId("select-shown").addEventListener("click", () => select(() => true));
