// ---- What is shown.

const view = { x: 0, y: 0, scale: 1, fit: 1, width: 1, height: 1 };
let by = initial;
let highlighted = -1;
let hovered = -1;
let withNames = true;
let search = "";
// "both", "points" or "density"
let drawn = "both";
const shown = new Uint8Array(n);
const shownOf = datasets.map(() => 0);
const selected = new Uint8Array(n);
let nSelected = 0;
const paint = new Uint8Array(4 * n);
// Datasets that are counted one by one.
const MOST_TOLD = 4;
// How much of a cell is left that is not pointed at, or not selected.
const PALE_HIGHLIGHT = 18, PALE_SELECTION = 40;

function filter() {
  const active = columns.filter((column) => (column.filtered = column.pass.includes(0)));
  shownOf.fill(0);
  for (let i = 0; i < n; i++) {
    let passes = 1;
    for (const column of active) passes &= column.pass[column.codes[i]];
    shown[i] = passes;
    shownOf[datasetOf(i)] += passes;
  }
  if (hovered >= 0 && !shown[hovered]) leave();
  byId("counter").textContent = n ? `${count(nShown())} of ${count(n)} cells shown${split(shownOf)}` : "There are no cells to show.";
  placeNames();
  showFilters();
  showHidden();
  showSelection();
  colorCells();
}

// Cells by dataset, where these are few enough to tell.
function split(counts) {
  if (datasets.length === 1 || datasets.length > MOST_TOLD) return "";
  return `: ${datasets.map((name, k) => `${count(counts[k])} ${name}`).join(", ")}`;
}

const nShown = () => shownOf.reduce((sum, some) => sum + some, 0);

function colorCells() {
  const table = palette(by);
  for (let i = 0; i < n; i++) {
    const code = by.codes[i];
    paint[4 * i] = table[3 * code];
    paint[4 * i + 1] = table[3 * code + 1];
    paint[4 * i + 2] = table[3 * code + 2];
    let alpha = 255;
    if (!shown[i]) alpha = 0;
    else if (highlighted >= 0) alpha = code === highlighted ? 255 : PALE_HIGHLIGHT;
    else if (nSelected) alpha = selected[i] ? 255 : PALE_SELECTION;
    paint[4 * i + 3] = alpha;
  }
  renderer.recolor();
  redraw();
}

function highlight(code) {
  if (code === highlighted || (code >= 0 && !by.pass[code])) return;
  highlighted = code;
  colorCells();
}
