// ---- Moving about: mouse, fingers, keys.

function fitView() {
  const pad = 20;
  const [width, height] = content.extent;
  view.fit = Math.min((view.width - 2 * pad) / Math.max(width, 1e-6), (view.height - 2 * pad) / Math.max(height, 1e-6));
  view.fit = Math.max(view.fit, 1);
}

function showAll() {
  Object.assign(view, { x: content.extent[0] / 2, y: content.extent[1] / 2, scale: view.fit });
  moved();
}

function zoomBy(factor, px = view.width / 2, py = view.height / 2) {
  const scale = Math.min(Math.max(view.scale * factor, view.fit / 2), view.fit * 500);
  view.x += (px - view.width / 2) * (1 / view.scale - 1 / scale);
  view.y -= (py - view.height / 2) * (1 / view.scale - 1 / scale);
  view.scale = scale;
  moved();
}

function panBy(dx, dy) {
  view.x -= dx / view.scale;
  view.y += dy / view.scale;
  moved();
}

function moved() {
  leave();
  redraw(MOVING);
  remember();
}

const stage = byId("stage"), canvas = byId("points");
const pointers = new Map();
let travelled = 0;

function inStage(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  travelled = 0;
  pointers.set(event.pointerId, inStage(event));
  // A second finger zooms.
  if (pointers.size > 1) lasso = null;
  else if (lassoOn || event.shiftKey) startLasso(inStage(event));
});
window.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId), now = inStage(event);
  if (!before) {
    if (event.target === canvas) hover(...now);
    return;
  }
  const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  travelled += Math.hypot(dx, dy);
  if (lasso) {
    extendLasso(now);
  } else if (pointers.size === 2) {
    const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
    const spread = ([x, y]) => Math.max(Math.hypot(x - other[0], y - other[1]), 1);
    zoomBy(spread(now) / spread(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    panBy(dx / 2, dy / 2);
  } else if (pointers.size === 1) {
    panBy(dx, dy);
  }
  pointers.set(event.pointerId, now);
});
for (const type of ["pointerup", "pointercancel"]) {
  window.addEventListener(type, (event) => {
    if (!pointers.delete(event.pointerId)) return;
    // With the button pressed, Shift adds to what is selected.
    if (lasso && type === "pointerup") endLasso(lassoOn && event.shiftKey);
    lasso = null;
    if (travelled < 5 && type === "pointerup") hover(...inStage(event));
  });
}
canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") leave(); });
canvas.addEventListener("dblclick", (event) => zoomBy(2, ...inStage(event)));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), ...inStage(event));
}, { passive: false });
const KEYS = {
  ArrowLeft: () => panBy(40, 0), ArrowRight: () => panBy(-40, 0), ArrowUp: () => panBy(0, 40), ArrowDown: () => panBy(0, -40),
  "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: showAll,
  // The nearest to the middle, however far it is.
  Enter: () => hover(view.width / 2, view.height / 2, Math.hypot(view.width, view.height) / 2), Escape: leave,
};
canvas.addEventListener("keydown", (event) => {
  if (!Object.hasOwn(KEYS, event.key) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  KEYS[event.key]();
});
byId("in").addEventListener("click", () => zoomBy(1.5));
byId("out").addEventListener("click", () => zoomBy(1 / 1.5));
byId("fit").addEventListener("click", showAll);

function resize() {
  const zoom = view.scale / view.fit;
  view.width = Math.max(stage.clientWidth, 1);
  view.height = Math.max(stage.clientHeight, 1);
  for (const one of [byId("ground"), canvas, byId("over")]) {
    one.width = Math.round(view.width * devicePixelRatio);
    one.height = Math.round(view.height * devicePixelRatio);
  }
  fitView();
  view.scale = view.fit * zoom;
  leave();
  // At once: a resized canvas is blank until it is drawn.
  draw();
}
