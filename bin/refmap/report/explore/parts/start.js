// ---- The start.

window.addEventListener("hashchange", restore);
dark.addEventListener("change", () => { showPanel(); filter(); });
byId("notes").replaceChildren(...content.notes.map((note) => element("p", {}, note)));

async function readRest() {
  try {
    await Promise.all([readNames(), content.density && unpackDensity()]);
  } catch (error) {
    byId("notes").append(element("p", {}, `Names and density could not be unpacked: ${error.message}`));
  }
  showSelection();
  redraw();
}

resize();
window.refmap = {
  ready: Promise.all([restore(), readRest()]),
  cells: n,
  renderer: renderer.name,
  find: (name) => {
    const at = names ? names.indexOf(name) : -1;
    return at < 0 ? -1 : at + firstNamed;
  },
  cell: describe,
  pixel: (i) => {
    const box = canvas.getBoundingClientRect(), [x, y] = toPixel(i);
    return [box.left + x, box.top + y];
  },
  shown: nShown,
  selected: () => [...selected.keys()].filter((i) => selected[i]),
  drawn: () => nDrawn,
};
new ResizeObserver(resize).observe(stage);
