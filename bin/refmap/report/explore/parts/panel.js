// ---- The panel.

function checkbox(text, checked, change) {
  const box = element("input", { type: "checkbox", checked });
  box.addEventListener("change", () => change(box.checked));
  return element("label", {}, box, text);
}

function showPanel() {
  const select = byId("color");
  select.replaceChildren(...columns.map((column, k) => element("option", { value: k, selected: column === by }, column.name)));
  byId("gene").value = by.gene ? by.name.slice(GENE.length) : "";
  const boxes = datasets.map((name, k) =>
    checkbox(`${name} (${count(datasetColumn.counts[k][FIRST + k])})`, datasetColumn.pass[FIRST + k], (on) => {
      datasetColumn.pass[FIRST + k] = on;
      changed();
    })
  );
  const names = checkbox("names", withNames, (on) => { withNames = on; redraw(); remember(); });
  byId("datasets").replaceChildren(...boxes, ...(by.categories && by !== datasetColumn ? [names] : []));
  byId("drawn").replaceChildren(...[["both", "cells on their density"], ["points", "cells"], ["density", "density"]].map(drawnChoice));
  showLegend();
}

function drawnChoice([value, text]) {
  const choice = element("input", { type: "radio", name: "drawn", value, checked: drawn === value });
  choice.addEventListener("change", () => { drawn = value; leave(); redraw(); remember(); });
  return element("label", {}, choice, text);
}

// Filters of columns other than the one in the legend: seen, and taken back, here.
function showFilters() {
  const others = columns.filter((column) => column.filtered && column !== by && column !== datasetColumn);
  byId("filters").replaceChildren(...others.map((column) =>
    button(`filtered by ${column.name} ✕`, "Remove this filter", () => { clearFilter(column); changed(); }, { className: "chip" })
  ));
}

// The panel is made anew, but not while one types into it.
function changed(panel = true) {
  highlighted = -1;
  if (panel) keepingFocus(showPanel);
  filter();
  remember();
}

// By its place among those that can have it: what had it is replaced.
function keepingFocus(remake) {
  const all = () => [...document.querySelectorAll("aside input, aside button, aside select")];
  const at = all().indexOf(document.activeElement);
  remake();
  if (at >= 0) all()[at]?.focus();
}

function colorBy(column) {
  by = column;
  search = "";
  changed();
}

byId("color").addEventListener("change", (event) => colorBy(columns[Number(event.target.value)]));

// ---- The field of genes: those in the page are offered as one types.

function geneNotes(...texts) {
  byId("gene-notes").replaceChildren(...texts.map((text) => element("p", {}, text)));
}

// The column of a gene; null where there is none, which is said.
async function readGene(name) {
  const notes = content.genes ? content.genes.notes : [];
  try {
    const column = await geneColumn(name);
    geneNotes(...(column ? [] : [`There is no gene "${name}" among the ${count(genes.length)} in this page.`]), ...notes);
    return column;
  } catch (error) {
    geneNotes(`The gene "${name}" could not be unpacked: ${error.message}`);
    return null;
  }
}

async function colorByGene(name) {
  const column = await readGene(name);
  if (column) colorBy(column);
}

// However it is spelt.
const spelt = (text) => (geneNamed(text) || genes.find((gene) => gene.name.toLowerCase() === text.toLowerCase()) || { name: text }).name;

byId("gene").addEventListener("change", (event) => {
  const text = event.target.value.trim();
  if (text) colorByGene(spelt(text));
  else if (by.gene) colorBy(initial);
});

if (genes.length) {
  byId("genes").hidden = false;
  byId("gene").placeholder = `one of ${count(genes.length)}`;
  byId("gene-names").replaceChildren(...genes.map((gene) => element("option", { value: gene.name })));
  geneNotes(...content.genes.notes);
}
byId("drawn").hidden = !content.density;
