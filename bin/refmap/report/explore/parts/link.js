// ---- The link that keeps the view.

function state() {
  const link = new URLSearchParams();
  if (by !== initial) link.set("color", by.name);
  for (const column of columns) {
    if (!column.filtered) continue;
    for (const [code, key] of [[MISSING, "missing"], [ABSENT, "absent"]]) {
      if (!column.pass[code] && column.total(code)) link.set(`${key}.${column.name}`, "off");
    }
    if (column.categories) {
      const hidden = column.categories.filter((_, k) => !column.pass[k + FIRST]);
      const visible = column.categories.filter((_, k) => column.pass[k + FIRST]);
      // Where all are hidden there is no `only` to name.
      const key = visible.length && visible.length < hidden.length ? "only" : "hide";
      for (const name of key === "only" ? visible : hidden) link.append(`${key}.${column.name}`, name);
    } else {
      for (const end of ["from", "to"]) if (column[end] !== null) link.set(`${end}.${column.name}`, column[end]);
    }
  }
  if (!withNames) link.set("names", "off");
  if (drawn !== "both") link.set("draw", drawn);
  const [width, height] = content.extent;
  const place = [view.x, view.y, view.scale / view.fit].map((number) => number.toFixed(4));
  if (place.join() !== [width / 2, height / 2, 1].map((number) => number.toFixed(4)).join()) link.set("at", place.join());
  return link.toString();
}

let restoring = 0;

async function restore() {
  const link = new URLSearchParams(location.hash.slice(1)), mine = ++restoring;
  // Without any, all is done before this returns.
  for (const gene of genesIn(link)) await readGene(gene);
  if (mine !== restoring) return;
  by = columns.find((column) => column.name === link.get("color")) || initial;
  withNames = link.get("names") !== "off";
  drawn = content.density && ["points", "density"].includes(link.get("draw")) ? link.get("draw") : "both";
  search = "";
  highlighted = -1;
  for (const column of columns) {
    clearFilter(column);
    const only = new Set(link.getAll(`only.${column.name}`)), hide = new Set(link.getAll(`hide.${column.name}`));
    if (column.categories && (only.size || hide.size)) {
      column.categories.forEach((name, k) => { column.pass[k + FIRST] = (!only.size || only.has(name)) && !hide.has(name); });
    }
    for (const end of ["from", "to"]) {
      const number = parseFloat(link.get(`${end}.${column.name}`));
      if (!column.categories && Number.isFinite(number)) column[end] = number;
    }
    if (!column.categories) filterNumbers(column);
    if (link.get(`missing.${column.name}`) === "off") column.pass[MISSING] = 0;
    if (link.get(`absent.${column.name}`) === "off") column.pass[ABSENT] = 0;
  }
  showAll();
  const at = (link.get("at") || "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite) && at[2] >= 0.5) {
    Object.assign(view, { x: at[0], y: at[1], scale: view.fit * Math.min(at[2], 500) });
  }
  showPanel();
  filter();
}

let remembering = 0;

function remember() {
  clearTimeout(remembering);
  // Browsers count how often an address changes.
  remembering = setTimeout(() => {
    const link = state();
    if (link === location.hash.slice(1)) return;
    history.replaceState(null, "", link ? `#${link}` : location.pathname + location.search);
  }, 250);
}
