// ---- The lasso: a line drawn around cells, with the button pressed or Shift held.

// Pixels between the corners of the line.
const LASSO_STEP = 3;
// Of the height of what it surrounds.
const LASSO_BANDS = 128;
let lassoOn = false;
// Its corners in places, while it is drawn.
let lasso = null;

function toPlace(px, py) {
  return [view.x + (px - view.width / 2) / view.scale, view.y - (py - view.height / 2) / view.scale];
}

function startLasso(at) {
  leave();
  lasso = [toPlace(...at)];
}

function extendLasso(at) {
  const next = toPlace(...at), last = lasso[lasso.length - 1];
  if (Math.hypot(next[0] - last[0], next[1] - last[1]) * view.scale < LASSO_STEP) return;
  lasso.push(next);
  redraw(OVER);
}

function endLasso(more) {
  const line = lasso;
  lasso = null;
  redraw(OVER);
  if (line.length < 3) return;
  const inside = within(line);
  select((i) => inside(places[2 * i] / MOST_CODE, places[2 * i + 1] / MOST_CODE), more);
}

// Whether the line winds around a place: what it goes around twice is inside, too (Sunday 2001, the winding number).
function within(line) {
  const xs = line.map(([x]) => x), ys = line.map(([, y]) => y);
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  // Of the sides only those are looked at that reach into the band of the place.
  const bands = Array.from({ length: LASSO_BANDS }, () => []);
  const bandOf = (y) => Math.min(Math.floor((y - low) / (high - low || 1) * LASSO_BANDS), LASSO_BANDS - 1);
  for (let k = 0, last = line.length - 1; k < line.length; last = k++) {
    const [first, end] = [ys[k], ys[last]].map(bandOf).sort((a, b) => a - b);
    for (let band = first; band <= end; band++) bands[band].push([xs[last], ys[last], xs[k], ys[k]]);
  }
  return (x, y) => {
    if (x < left || x > right || y < low || y > high) return false;
    let turns = 0;
    for (const [fromX, fromY, toX, toY] of bands[bandOf(y)]) {
      const side = (toX - fromX) * (y - fromY) - (x - fromX) * (toY - fromY);
      if (fromY <= y && toY > y && side > 0) turns++;
      else if (fromY > y && toY <= y && side < 0) turns--;
    }
    return turns !== 0;
  };
}

function drawLasso(context, ink, halo) {
  if (!lasso) return;
  context.beginPath();
  for (const [x, y] of lasso) context.lineTo(...pixelOf(x, y));
  context.closePath();
  for (const [color, width] of [[halo, 4], [ink, 1.5]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}

byId("lasso").addEventListener("click", () => {
  lassoOn = !lassoOn;
  byId("lasso").setAttribute("aria-pressed", String(lassoOn));
});
