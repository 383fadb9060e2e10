// ---- One frame.

const renderer = makeRenderer();
// What a frame draws anew: the ring and the line alone; all, but in a moving picture no more cells than it takes to stay fluent; all.
const OVER = 1, MOVING = 2, ALL = 3;
// Milliseconds that a moving frame may take, and after which a picture that has stopped is drawn in full.
const FLUENT = 30, SETTLED = 150;
let due = 0;
let nDrawn = 0;
// Of a frame of all cells.
let took = 0;
let settling = 0;

function redraw(what = ALL) {
  if (!due) requestAnimationFrame(() => {
    const now = due;
    due = 0;
    draw(now);
  });
  due = Math.max(due, what);
}

function draw(what = ALL) {
  const room = Math.sqrt(view.width * view.height / Math.max(n, 1));
  const zoom = view.scale / view.fit;
  const size = Math.min(Math.min(Math.max(0.55 * room, 2), 8) * Math.max(zoom, 1) ** 0.4, 16);
  if (what > OVER) {
    drawGround();
    drawCells(size, what === MOVING && took > FLUENT ? FLUENT / took : 1);
  }
  drawOver(size);
}

function drawCells(size, share) {
  // In random order: the first ones are a sample of all.
  const part = (start, end) => ({ start, end: start + Math.ceil((end - start) * share) });
  const dots = drawn === "density" ? [] : [
    { ...part(0, nBehind), size, opacity: 0.6 },
    { ...part(nBehind, n), size: nBehind ? 1.25 * size : size, opacity: 0.9 },
  ];
  const start = performance.now();
  renderer.draw(dots);
  nDrawn = dots.reduce((sum, { start, end }) => sum + end - start, 0);
  clearTimeout(settling);
  if (share < 1) {
    settling = setTimeout(redraw, SETTLED);
  } else {
    renderer.wait();
    took = performance.now() - start;
  }
}

function pixelOf(x, y) {
  return [(x - view.x) * view.scale + view.width / 2, view.height / 2 - (y - view.y) * view.scale];
}

const toPixel = (i) => pixelOf(places[2 * i] / MOST_CODE, places[2 * i + 1] / MOST_CODE);

// ---- The density of all cells, where not all are drawn: a picture that is made once and moves with the view.

let density = null;

async function unpackDensity() {
  const { side, levels } = content.density;
  const values = await unpack(levels);
  density = document.createElement("canvas");
  density.width = density.height = side;
  const context = density.getContext("2d"), image = context.createImageData(side, side);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      // Upwards in the picture as in the data; ink of some opacity, on whatever background.
      const at = 4 * ((side - 1 - row) * side + column);
      image.data.fill(128, at, at + 3);
      image.data[at + 3] = values[row * side + column];
    }
  }
  context.putImageData(image, 0, 0);
}

function drawGround() {
  const ground = byId("ground"), context = ground.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, ground.width, ground.height);
  if (!density || drawn === "points") return;
  const sharp = ground.width / view.width, size = view.scale * sharp;
  const [left, bottom] = pixelOf(0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(density, left * sharp, bottom * sharp - size, size, size);
}

// ---- Names of the categories in the middle (the median) of their cells, and a ring around the cell that is pointed at.

const MOST_WRITTEN = 60;
let written = [];

function placeNames() {
  written = [];
  if (!by.categories) return;
  const start = new Uint32Array(by.size + 1);
  for (let i = 0; i < n; i++) if (shown[i]) start[by.codes[i] + 1]++;
  for (let code = 0; code < by.size; code++) start[code + 1] += start[code];
  const x = new Uint16Array(start[by.size]), y = new Uint16Array(start[by.size]), next = start.slice();
  for (let i = 0; i < n; i++) {
    if (!shown[i]) continue;
    const at = next[by.codes[i]]++;
    x[at] = places[2 * i];
    y[at] = places[2 * i + 1];
  }
  for (let code = FIRST; code < by.size && written.length < MOST_WRITTEN; code++) {
    const [from, to] = [start[code], start[code + 1]];
    if (to === from) continue;
    const median = (values) => values.slice(from, to).sort()[(to - from) >> 1];
    const [mx, my] = [median(x), median(y)];
    // At the nearest of its cells: between two clusters there may be none.
    let at = from, least = Infinity;
    for (let k = from; k < to; k++) {
      const distance = (x[k] - mx) ** 2 + (y[k] - my) ** 2;
      if (distance < least) [at, least] = [k, distance];
    }
    written.push({ text: shorten(by.categories[code - FIRST]), x: x[at] / MOST_CODE, y: y[at] / MOST_CODE });
  }
}

const shorten = (text) => (text.length > 26 ? `${text.slice(0, 25)}…` : text);

function drawOver(size) {
  const canvas = byId("over"), context = canvas.getContext("2d");
  const sharp = canvas.width / view.width;
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink"), halo = style.getPropertyValue("--plot");
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  context.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  const taken = [];
  for (const { text, x, y } of withNames && by !== datasetColumn ? written : []) {
    const [px, py] = pixelOf(x, y);
    const half = context.measureText(text).width / 2 + 3;
    // The most frequent come first, and keep their place.
    if (taken.some((box) => Math.abs(box.px - px) < box.half + half && Math.abs(box.py - py) < 15)) continue;
    taken.push({ px, py, half });
    context.strokeStyle = halo;
    context.lineWidth = 4;
    context.strokeText(text, px, py);
    context.fillStyle = ink;
    context.fillText(text, px, py);
  }
  drawLasso(context, ink, halo);
  if (hovered >= 0) {
    context.beginPath();
    context.arc(...toPixel(hovered), size / 2 + 4, 0, 2 * Math.PI);
    for (const [color, width] of [[halo, 4], [ink, 2]]) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }
  }
}
