// ---- The cell that is pointed at, found in a grid of 256 x 256.

// Pixels.
const REACH = 9;
const gridStart = new Uint32Array(65537);
const gridCells = new Uint32Array(n);
const gridAt = (i) => ((places[2 * i + 1] >> 8) << 8) | (places[2 * i] >> 8);
for (let i = 0; i < n; i++) gridStart[gridAt(i) + 1]++;
for (let at = 0; at < 65536; at++) gridStart[at + 1] += gridStart[at];
const gridNext = gridStart.slice();
for (let i = 0; i < n; i++) gridCells[gridNext[gridAt(i)]++] = i;

function nearest(px, py, pixels = REACH) {
  if (drawn === "density") return -1;
  const [x, y] = toPlace(px, py);
  const reach = pixels / view.scale;
  const square = (value) => Math.min(Math.max(Math.floor(value * MOST_CODE / 256), 0), 255);
  let found = -1, least = reach * reach;
  for (let row = square(y - reach); row <= square(y + reach); row++) {
    const first = gridStart[(row << 8) + square(x - reach)], end = gridStart[(row << 8) + square(x + reach) + 1];
    for (let k = first; k < end; k++) {
      const i = gridCells[k];
      if (!shown[i]) continue;
      const distance = (places[2 * i] / MOST_CODE - x) ** 2 + (places[2 * i + 1] / MOST_CODE - y) ** 2;
      // Of two in one place, the one on top.
      if (distance < least || (distance === least && i > found)) [found, least] = [i, distance];
    }
  }
  return found;
}

// The names of the cells from `firstNamed` on.
let names = null, namesRead = false;
const firstNamed = content.names ? content.names.start : n;

async function readNames() {
  if (content.names) names = JSON.parse(new TextDecoder().decode(await unpack(content.names.packed)));
  namesRead = true;
}

const nameOf = (i) => (names && i >= firstNamed ? names[i - firstNamed] : null);

function describe(i) {
  const values = columns
    .filter((column) => column !== datasetColumn && column.codes[i] !== ABSENT)
    .map((column) => [column.name, valueText(column, column.codes[i])]);
  return { dataset: datasets.length > 1 ? datasets[datasetOf(i)] : null, name: nameOf(i), values };
}

function hover(px, py, pixels = REACH) {
  const found = nearest(px, py, pixels);
  if (found < 0) return leave();
  const tip = byId("tip");
  if (found !== hovered) {
    hovered = found;
    const cell = describe(found);
    const rows = cell.values.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
    const head = [cell.dataset, "cell", cell.name].filter((word) => word !== null).join(" ");
    tip.replaceChildren(element("strong", {}, head), element("dl", {}, ...rows));
    tip.hidden = false;
    redraw(OVER);
  }
  const [x, y] = toPixel(found);
  const left = x + 14 + tip.offsetWidth < view.width ? x + 14 : Math.max(x - 14 - tip.offsetWidth, 0);
  const top = Math.min(Math.max(y - tip.offsetHeight / 2, 4), Math.max(view.height - tip.offsetHeight - 4, 4));
  tip.style.transform = `translate(${left}px, ${top}px)`;
}

function leave() {
  byId("tip").hidden = true;
  if (hovered >= 0) redraw(OVER);
  hovered = -1;
}
