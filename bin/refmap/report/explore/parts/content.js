// ---- The content of the page.

const byId = (id) => document.getElementById(id);
const content = JSON.parse(byId("content").textContent);
byId("content").remove();

const ARRAYS = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
const MOST_CODE = 65535;
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => (dark.matches ? "dark" : "light");
const count = (number) => number.toLocaleString("en-US");
const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

const places = decode(content.places, 2);
const n = places.length / 2;
// The background's cells come first, so that the others lie on top.
const nBehind = content.behind;

function decode(text, bytes) {
  const binary = atob(text);
  const array = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) array[i] = binary.charCodeAt(i);
  return new ARRAYS[bytes](array.buffer);
}

// Bytes that `packing.compress` packed.
async function unpack(text) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  // What goes wrong here, the reader is told too.
  writer.write(decode(text, 1)).catch(() => {});
  writer.close().catch(() => {});
  const reader = stream.readable.getReader(), parts = [];
  for (let part = await reader.read(); !part.done; part = await reader.read()) parts.push(part.value);
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  // Strings become text, never markup.
  made.append(...children);
  return made;
}
