// ---- Columns: a code a cell, and by code how many cells have it, whether they pass the filter, and their colour.

const MISSING = 0, ABSENT = 1, FIRST = 2;

const datasets = content.datasets.categories;
const datasetCodes = decode(content.datasets.codes, 2);
const datasetOf = (i) => datasetCodes[i];

function prepare(column) {
  column.size = column.categories ? column.categories.length + FIRST : 256 ** column.bytes;
  column.counts = datasets.map(() => new Uint32Array(column.size));
  for (let i = 0; i < n; i++) column.counts[datasetOf(i)][column.codes[i]]++;
  column.total = (code) => column.counts.reduce((sum, counts) => sum + counts[code], 0);
  column.pass = new Uint8Array(column.size).fill(1);
  column.from = column.to = null;
  column.filtered = false;
  return column;
}

const datasetColumn = prepare({ ...content.datasets, codes: datasetCodes.map((code) => FIRST + code) });
const columns = [
  datasetColumn,
  ...content.columns.map((column) => prepare({ ...column, codes: decode(column.codes, column.bytes) })),
];
const initial = columns.find((column) => column.name === content.color) || datasetColumn;

const numberOf = (column, code) => column.low + (code - FIRST) * column.step;

function valueText(column, code) {
  if (code === MISSING) return "missing";
  if (code === ABSENT) return `${datasets.filter((_, k) => column.counts[k][ABSENT]).join(", ")}: not in this column`;
  return column.categories ? column.categories[code - FIRST] : numberText(numberOf(column, code), column.step);
}

function numberText(number, step) {
  if (step === 1) return String(number);
  if (number === 0) return "0";
  // No more digits than there are.
  return String(Number(Math.abs(number) < step ? number.toPrecision(1) : number.toPrecision(4)));
}

function filterNumbers(column) {
  // Half a step of leeway: the numbers are rounded.
  const low = column.from === null ? -Infinity : column.from - column.step / 2;
  const high = column.to === null ? Infinity : column.to + column.step / 2;
  for (let code = FIRST; code < column.size; code++) {
    const number = numberOf(column, code);
    column.pass[code] = number >= low && number <= high ? 1 : 0;
  }
}

function clearFilter(column) {
  column.pass.fill(1);
  column.from = column.to = null;
}

// Red, green and blue by code.
function palette(column) {
  const table = new Uint8Array(3 * column.size);
  const grey = rgb(content.grey[theme()]);
  table.set(grey, 3 * MISSING);
  table.set(grey, 3 * ABSENT);
  if (column.categories) {
    column[theme()].forEach((color, k) => table.set(rgb(color), 3 * (k + FIRST)));
    return table;
  }
  const ramp = content.ramp[theme()].map(rgb);
  const [low, high] = column.limits;
  for (let code = FIRST; code < column.size; code++) {
    const share = high > low ? (numberOf(column, code) - low) / (high - low) : 0;
    const at = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
    const below = Math.min(Math.floor(at), ramp.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * code + c] = Math.round(ramp[below][c] + (at - below) * (ramp[below + 1][c] - ramp[below][c]));
    }
  }
  return table;
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
