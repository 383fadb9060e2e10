"""Pages to look around in, for the tests: cells, what a page's file holds, and what a real browser makes of it."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import zlib
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refmap.report.explore import write_page
from refmap.report.explore.columns import ABSENT, FIRST

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH: no page was opened")
RENDERERS = {"webgl": ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"], "2d": ["--disable-3d-apis"]}
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><!--"
WHICH = "reference or query"


def make_cells(n_reference=40, n_query=30):
    """Positions and a table of cells on a lattice, at least 1 apart, those of the reference first.

    The reference has no uncertainty, and some of each have no label.
    """
    rng = np.random.default_rng(3)
    n = n_reference + n_query
    lattice = np.stack(np.divmod(rng.permutation(n), 10), axis=1)[:, ::-1]
    position = (lattice * 1.5 + rng.uniform(0, 0.4, (n, 2)) - 7).astype(np.float32)
    label = rng.choice(np.array(["T cell", "B cell", "NK $cell"], dtype=object), n)
    label[rng.random(n) < 0.15] = None
    table = pd.DataFrame({WHICH: ["reference"] * n_reference + ["query"] * n_query, "label": pd.Categorical(label)})
    table["uncertainty"] = [*np.full(n_reference, np.nan), *rng.random(n_query).astype(np.float32)]
    table["batch"] = ["r"] * n_reference + list(rng.choice(["q1", "q2"], n_query))
    table["genes"] = [*np.full(n_reference, np.nan), *rng.integers(0, 9000, n_query)]
    table.loc[n_reference + 3, "uncertainty"] = np.nan
    names = [*(f"r-{i}" for i in range(n_reference)), *(f"cell-{i}" for i in range(n_query))]
    return position, table.set_axis(names)


def write(path, position, table, title="lung <1>", **more):
    """Write the page of cells, beside those of a reference where the table says which are."""
    if WHICH in table:
        more = {"datasets": WHICH, "background": "reference"} | more
    write_page(path, title, position, list(table.index), dict(table.items()), **more)
    return path


def content_of(path: Path) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def decode(text, size):
    return np.frombuffer(base64.b64decode(text), f"<u{size}")


def unpack(text):
    return zlib.decompress(base64.b64decode(text))


def names_of(content):
    return json.loads(unpack(content["names"]["packed"]))


def values_of(column):
    """Read a column's values back from its codes: text or numbers, NaN where missing, and where it is absent."""
    codes = decode(column["codes"], column["bytes"]).astype(int)
    if "categories" in column:
        values = np.array([np.nan, np.nan, *column["categories"]], dtype=object)[codes]
    else:
        values = np.where(codes < FIRST, np.nan, column["low"] + (codes - FIRST) * column["step"])
    return values, codes == ABSENT


def filled(values):
    return list(pd.Series(np.asarray(values, dtype=object)).fillna("-"))


# ---- The page in a browser.

# Before the page's own script: notes what goes wrong.
WATCH = """
window.faults = [];
addEventListener("error", (event) => faults.push("error: " + event.message));
addEventListener("unhandledrejection", (event) => faults.push("rejection: " + event.reason));
addEventListener("securitypolicyviolation", (event) => faults.push("policy: " + event.violatedDirective));
"""
# After it: acts as a user does, at the places where the page says that its cells are.
ACT = """
const pause = (ms = 60) => new Promise((resolve) => setTimeout(resolve, ms));
const q = (selector) => document.querySelector(selector);
const mouse = (type, [clientX, clientY], Kind = PointerEvent, more = {}) =>
  document.elementFromPoint(clientX, clientY).dispatchEvent(
    new Kind(type, { clientX, clientY, bubbles: true, cancelable: true, pointerType: "mouse", pointerId: 1, ...more }));
const tip = () => q("#tip").hidden ? null : {
  head: q("#tip strong").textContent,
  rows: Object.fromEntries([...document.querySelectorAll("#tip dt")].map((dt) => [dt.textContent, dt.nextSibling.textContent])),
};
const hoverOver = (i) => { mouse("pointermove", refmap.pixel(i)); return tip(); };
const rows = () => [...document.querySelectorAll("#rows tbody tr")];
const row = (name) => rows().find((tr) => tr.querySelector("label").textContent === name);
const tick = (name) => row(name).querySelector("input").click();
const counter = () => q("#counter").textContent;
const choose = (name) => {
  q("#color").value = [...q("#color").options].find((option) => option.text === name).value;
  q("#color").dispatchEvent(new Event("change"));
};
const type = (selector, text) => { q(selector).value = text; q(selector).dispatchEvent(new Event("input")); };
addEventListener("load", async () => {
  let result;
  try {
    await pause();
    await refmap.ready;
    result = await (async () => { %s })();
  } catch (error) {
    faults.push("test: " + error.stack);
  }
  const resources = performance.getEntriesByType("resource").map((entry) => entry.name);
  const all = { result, faults, resources, title: document.title, renderer: refmap.renderer };
  parent.postMessage(all, "*");
});
"""
# The page around the frames: gathers what they found.
GATHER = """
const all = {};
addEventListener("message", ({data, source}) => {
  all[[...document.querySelectorAll("iframe")].findIndex((frame) => frame.contentWindow === source)] = data;
  if (Object.keys(all).length < document.querySelectorAll("iframe").length) return;
  const pre = document.createElement("pre");
  pre.id = "result";
  pre.textContent = JSON.stringify(all);
  document.body.append(pre);
});
"""


def with_test(page, act, folder):
    """Write a copy of the page whose policy also allows the scripts of the test."""
    text = page.read_text()
    scripts = [WATCH, ACT.replace("%s", act)]
    allowed = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    text = text.replace("script-src ", f"script-src {allowed} ", 1)
    text = text.replace("<style>", f"<script>{scripts[0]}</script><style>", 1)
    path = folder / f"test_{page.name}"
    path.write_text(text.replace("</body>", f"<script>{scripts[1]}</script></body>"))
    return path


def open_pages(pages, folder, *flags, link="", size=(1000, 500)):
    """Open pages in headless Chromium, each in a frame of that size in pixels, and return what the test in each found.

    Writes screenshot.png beside: the first frame is its upper left corner.
    """
    width, height = size
    frames = [
        f'<iframe src="{page.name}{link}" style="border: 0; width: {width}px; height: {height}px"></iframe>' for page in pages
    ]
    around = f'<!DOCTYPE html><body style="margin: 0"><script>{GATHER}</script>{"".join(frames)}'
    (folder / "frames.html").write_text(around)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1000,700", "--virtual-time-budget=20000"]
    command += [f"--screenshot={folder / 'screenshot.png'}", "--dump-dom", *flags, (folder / "frames.html").as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r'<pre id="result">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, f"the pages wrote no result:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    results = json.loads(unescape(found[1]))
    return [results[str(number)] for number in range(len(pages))]


def act_on(page, act, folder, *flags, link=""):
    [seen] = open_pages([with_test(page, act, folder)], folder, *flags, link=link)
    assert seen["faults"] == [] and seen["resources"] == []
    return seen
