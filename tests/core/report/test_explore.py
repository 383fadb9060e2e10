"""The page to look around in: what its file holds, and what it does in a real browser where there is one."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from refmap.report import explore
from refmap.report.explore import ABSENT, FIRST, MISSING, MOST_CODE, Cells, colors, contrast, visible, write_page
from refmap.report.plots import FEW_COLORS, GREY, MANY_COLORS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH: no page was opened")
RENDERERS = {"webgl": ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"], "2d": ["--disable-3d-apis"]}
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><!--"


def make_cells(n_reference=40, n_query=30):
    """Cells on a lattice, at least 1 apart; the reference has no uncertainty, and some of each have no label."""
    rng = np.random.default_rng(3)
    n = n_reference + n_query
    lattice = np.stack(np.divmod(rng.permutation(n), 10), axis=1)[:, ::-1]
    position = (lattice * 1.5 + rng.uniform(0, 0.4, (n, 2)) - 7).astype(np.float32)
    label = pd.Series(rng.choice(["T cell", "B cell", "NK $cell"], n), dtype="category")
    label[rng.random(n) < 0.15] = None
    table = pd.DataFrame({"label": label, "batch": ["r"] * n_reference + list(rng.choice(["q1", "q2"], n_query))})
    of_query = table[n_reference:].assign(
        uncertainty=rng.random(n_query).astype(np.float32), genes=rng.integers(0, 9000, n_query)
    )
    of_query.loc[of_query.index[3], "uncertainty"] = np.nan
    of_query.index = [f"cell-{i}" for i in range(n_query)]
    return Cells(position[n_reference:], of_query), Cells(position[:n_reference], table[:n_reference])


@pytest.fixture(scope="module")
def cells():
    return make_cells()


@pytest.fixture(scope="module")
def page(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("explore") / "page.html"
    write_page(path, "lung <1>", *cells, label="label", uncertainty="uncertainty", batch="batch")
    return path


def content_of(path):
    return json.loads(re.search(r'<script type="application/json" id="content">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def decode(text, size):
    return np.frombuffer(base64.b64decode(text), f"<u{size}")


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


# ---- The file.


def test_what_went_in_comes_out(cells, page):
    query, reference = cells
    content = content_of(page)
    assert content["cells"] == {"reference": 40, "query": 30} and content["color"] == "label"
    assert [column["name"] for column in content["columns"]] == ["label", "uncertainty", "batch", "genes"]
    places = decode(content["places"], 2).reshape(-1, 2)
    everything = np.concatenate([reference.position, query.position])
    span = np.ptp(everything, axis=0)
    assert content["extent"] == pytest.approx(span / span.max())
    # The order is drawn at random; the query's cells are named.
    query_at = query.columns.index.get_indexer(content["names"])
    assert sorted(query_at) == list(range(30)) and list(query_at) != list(range(30))
    back = places / MOST_CODE * span.max() + everything.min(axis=0)
    assert np.abs(back[40:] - query.position[query_at]).max() <= span.max() / MOST_CODE
    distance = np.abs(back[:40, None] - reference.position[None]).max(axis=2)
    reference_at = distance.argmin(axis=1)
    assert distance.min(axis=1).max() <= span.max() / MOST_CODE and sorted(reference_at) == list(range(40))

    for column in content["columns"]:
        values, absent = values_of(column)
        name = column["name"]
        assert list(absent) == [name in ("uncertainty", "genes")] * 40 + [False] * 30
        if name in reference.columns:
            assert filled(values[:40]) == filled(reference.columns[name].iloc[reference_at])
        true = query.columns[name].iloc[query_at]
        if name == "uncertainty":
            assert np.nanmax(np.abs(values[40:].astype(float) - true)) <= column["step"] / 2 + 1e-9
            assert (np.isnan(values[40:].astype(float)) == true.isna()).all() and column["limits"] == [0, 1]
        elif name == "genes":
            assert (values[40:] == true).all()
        else:
            assert filled(values[40:]) == filled(true)


def test_the_same_seed_gives_the_same_page(cells, page, tmp_path):
    write_page(tmp_path / "again.html", "lung <1>", *cells, label="label", uncertainty="uncertainty", batch="batch")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    write_page(tmp_path / "other.html", "lung <1>", *cells, label="label", uncertainty="uncertainty", batch="batch", seed=1)
    assert (tmp_path / "other.html").read_bytes() != page.read_bytes()


def test_the_page_names_no_other_place_and_runs_one_script(page):
    text = page.read_text()
    assert not re.search(r"https?:|//[a-z]+\.|\bsrc=|@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")", text)
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert text.count("<script") == 2 and "<title>lung &lt;1&gt;</title>" in text and "{{" not in text


def test_what_a_stranger_wrote_stays_inside_its_element(tmp_path):
    table = pd.DataFrame({HOSTILE: [HOSTILE, "{{script}}"], "<!--": ["{{title}}", "\u2028\u202e"]}, index=[HOSTILE, "b"])
    write_page(tmp_path / "bad.html", HOSTILE, Cells(np.eye(2), table), label=HOSTILE)
    text = (tmp_path / "bad.html").read_text()
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text and "<!--" not in text
    content = content_of(tmp_path / "bad.html")
    assert content["title"] == HOSTILE and HOSTILE in content["names"]
    assert content["columns"][0]["name"] == HOSTILE and set(content["columns"][0]["categories"]) == {HOSTILE, "{{script}}"}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """150,000 cells of either dataset, of which 1,000 of the reference's have no place."""
    rng = np.random.default_rng(0)
    n = 150_000
    labels = np.array([f"cell type number {i}" for i in range(60)])

    def some(prefix):
        columns = {"label": labels[rng.integers(0, 60, n)], "uncertainty": rng.random(n), "batch": rng.choice(["a", "b"], n)}
        table = pd.DataFrame({**columns, "distance": rng.gamma(2, 1, n), "pvalue": rng.random(n)})
        return Cells(rng.normal(size=(n, 2)).astype(np.float32), table.set_axis([f"{prefix}{i:024}" for i in range(n)]))

    query, reference = some("q"), some("r")
    reference.position[:1000] = np.nan
    path = tmp_path_factory.mktemp("large") / "page.html"
    write_page(path, "large", query, reference, label="label", uncertainty="uncertainty", batch="batch", shares=["pvalue"])
    return path


def test_200_000_cells_are_drawn_and_stay_small(large):
    content = content_of(large)
    assert content["cells"] == {"reference": 100_000, "query": 100_000}
    assert content["notes"] == [
        "Cells of the reference that have no place in the picture, and are left out: 1,000.",
        "Cells of the reference: 100,000 of 149,000 are drawn, chosen at random.",
        "Cells of the query: 100,000 of 150,000 are drawn, chosen at random.",
    ]
    assert content["names"] is not None and len(set(content["names"])) == 100_000
    assert large.stat().st_size < 10e6
    limits = {column["name"]: column["limits"] for column in content["columns"] if "limits" in column}
    assert limits["uncertainty"] == limits["pvalue"] == [0, 1] and limits["distance"][1] > 5


@pytest.mark.parametrize(
    ("n_reference", "n_query", "drawn"), [(90, 20, (80, 20)), (20, 90, (20, 80)), (90, 90, (50, 50)), (0, 120, (0, 100))]
)
def test_the_query_keeps_at_least_half_of_the_room(monkeypatch, n_reference, n_query, drawn):
    monkeypatch.setattr(explore, "MOST_CELLS", 100)
    sizes = {"reference": n_reference, "query": n_query}
    parts = {key: Cells(np.random.default_rng(0).normal(size=(n, 2)), pd.DataFrame(index=range(n))) for key, n in sizes.items()}
    chosen, _ = explore._choose(parts, np.random.default_rng(0))
    assert (len(chosen["reference"]), len(chosen["query"])) == drawn
    assert all(len(set(rows)) == len(rows) for rows in chosen.values())


def test_names_that_take_too_much_room_are_left_out(monkeypatch, cells, tmp_path):
    monkeypatch.setattr(explore, "MOST_NAME_BYTES", 100)
    write_page(tmp_path / "page.html", "x", *cells)
    assert content_of(tmp_path / "page.html")["names"] is None


def test_every_kind_of_column(tmp_path):
    n = 600
    table = pd.DataFrame(
        {
            "one": "a",
            "many": [f"type {i % 500}" for i in range(n)],
            "yes": [True, False] * (n // 2),
            "nothing": np.nan,
            "nobody": [None] * n,
            "constant": 1.5,
            "nullable": pd.array([1, None, 3] * (n // 3), dtype="Int64"),
            "infinite": [np.inf, -2.0, 0.5] * (n // 3),
            "wide": np.arange(n) * 1e6,
        }
    )
    write_page(tmp_path / "page.html", "x", Cells(np.random.default_rng(0).normal(size=(n, 2)), table))
    content = content_of(tmp_path / "page.html")
    columns = {column["name"]: column for column in content["columns"]}
    order = [int(name) for name in content["names"]]
    assert columns["one"]["categories"] == ["a"] and columns["one"]["light"] == [FEW_COLORS[0]]
    assert len(columns["many"]["categories"]) == 500 and columns["many"]["bytes"] == 2 and columns["one"]["bytes"] == 1
    # 100 types have two cells: they come first, by name.
    assert columns["many"]["categories"][:2] == ["type 0", "type 1"] and columns["many"]["categories"][100] == "type 100"
    assert columns["yes"]["categories"] == ["False", "True"]
    for name in ("nothing", "nobody"):
        assert columns[name]["categories"] == [] and set(decode(columns[name]["codes"], columns[name]["bytes"])) == {MISSING}
    assert set(values_of(columns["constant"])[0]) == {1.5} and columns["constant"]["limits"] == [1.5, 1.5]
    back = {
        name: pd.Series(values_of(columns[name])[0].astype(float), index=order).sort_index()
        for name in columns
        if "low" in columns[name]
    }
    assert list(back["nullable"].fillna(-1)[:3]) == [1, -1, 3]
    assert list(back["infinite"].fillna(-9)[:3]) == [-9, -2, 0.5]
    assert np.abs(back["wide"] - table["wide"]).max() <= columns["wide"]["step"] / 2
    assert content["color"] is None and content["notes"] == ["There are no labels to colour the cells by."]


def test_a_column_of_numbers_in_one_dataset_and_text_in_the_other_is_text(tmp_path):
    parts = [Cells(np.eye(2), pd.DataFrame({"age": ages})) for ages in ([1.5, np.nan], ["old", "1.5"])]
    write_page(tmp_path / "page.html", "x", *parts)
    column = content_of(tmp_path / "page.html")["columns"][0]
    assert column["categories"] == ["1.5", "old"]
    assert sorted(decode(column["codes"], 1)) == [MISSING, FIRST, FIRST, FIRST + 1]


def test_cells_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"positions of shape \(3, 2\) do not fit 2 rows"):
        Cells(np.zeros((3, 2)), pd.DataFrame(index=range(2)))
    with pytest.raises(ValueError, match="no cells have a column 'label'"):
        write_page(tmp_path / "page.html", "x", Cells(np.eye(2), pd.DataFrame({"a": [1, 2]})), label="label")
    assert not (tmp_path / "page.html").exists()


def test_colors_are_those_of_the_pictures():
    assert colors(8) == list(FEW_COLORS) and colors(19) == MANY_COLORS
    nine = colors(9)
    assert nine[0] == MANY_COLORS[0] and nine[-1] == MANY_COLORS[-1] and len(set(nine)) == 9
    assert colors(500)[19:38] == MANY_COLORS and len(colors(500)) == 500


def test_colors_can_be_seen_and_told_apart_on_the_dark_background():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for n in (8, 19):
        dark = [visible(color) for color in colors(n)]
        assert min(contrast(color, explore.DARK_BACKGROUND) for color in dark) >= explore.LEAST_CONTRAST
        rgb = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in [*dark, explore.DARK_GREY]])
        apart = np.linalg.norm(rgb[:, None] - rgb, axis=2)[np.triu_indices(n + 1, 1)]
        assert apart.min() > 25


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


@in_browser
@pytest.mark.parametrize("renderer", RENDERERS)
def test_hovering_shows_each_cell_where_it_is_drawn(cells, page, tmp_path, renderer):
    from PIL import Image

    act = "return Array.from({length: refmap.cells}, (_, i) => ({tip: hoverOver(i), at: refmap.pixel(i)}));"
    # At the end nothing is pointed at, and no name hides a cell.
    seen = act_on(
        page,
        act.replace("return", "const all =") + "mouse('pointerleave', refmap.pixel(0)); await pause(); return all;",
        tmp_path,
        *RENDERERS[renderer],
        link="#names=off",
    )
    assert seen["renderer"] == renderer and seen["title"] == "lung <1>" and len(seen["result"]) == 70
    query, reference = cells
    tips = [cell["tip"] for cell in seen["result"]]
    assert all(tip["head"] == "reference cell" and set(tip["rows"]) == {"label", "batch"} for tip in tips[:40])
    shown = sorted(tip["rows"]["label"] for tip in tips[:40])
    assert shown == sorted("missing" if label == "-" else label for label in filled(reference.columns["label"]))

    names = [tip["head"].removeprefix("query cell ") for tip in tips[40:]]
    assert sorted(names) == sorted(query.columns.index)
    for tip, true in zip(tips[40:], query.columns.loc[names].astype(object).fillna("missing").to_dict("records")):
        assert list(tip["rows"]) == ["label", "uncertainty", "batch", "genes"]
        assert tip["rows"]["label"] == true["label"] and tip["rows"]["batch"] == true["batch"]
        assert tip["rows"]["genes"] == str(true["genes"])
        if true["uncertainty"] == "missing":
            assert tip["rows"]["uncertainty"] == "missing"
        else:
            assert float(tip["rows"]["uncertainty"]) == pytest.approx(true["uncertainty"], abs=1e-4)

    # One scale for both dimensions, upwards in the picture as in the data.
    at = np.array([cell["at"] for cell in seen["result"][40:]])
    position = query.position[query.columns.index.get_indexer(names)].astype(float)
    (scale, x), *_ = np.linalg.lstsq(np.stack([position[:, 0], np.ones(30)], 1), at[:, 0], rcond=None)
    y = (at[:, 1] + scale * position[:, 1]).mean()
    expected = np.stack([scale * position[:, 0] + x, y - scale * position[:, 1]], axis=1)
    assert scale > 20 and np.abs(at - expected).max() < 0.1

    picture = np.asarray(Image.open(tmp_path / "screenshot.png").convert("RGB")).astype(int)
    light = dict(zip(content_of(page)["columns"][0]["categories"], colors(3)))
    for cell in seen["result"]:
        (x, y), color = cell["at"], light.get(cell["tip"]["rows"]["label"], GREY)
        opacity = 0.6 if cell["tip"]["head"].startswith("reference") else 0.9
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) * opacity + 255 * (1 - opacity)
        assert np.abs(picture[round(y - 0.5), round(x - 0.5)] - rgb).max() <= 3, cell


@in_browser
def test_filters_count_the_cells_that_are_left(cells, page, tmp_path):
    act = """
    const steps = {start: counter(), rows: rows().map((tr) => [...tr.cells].map((td) => td.textContent.replace("only", "")))};
    const i = refmap.find("cell-0"), label = refmap.cell(i).values[0][1];
    tick(label);
    steps.hidden = counter(); steps.tip = hoverOver(i);
    tick(label);
    steps.again = counter(); steps.tipAgain = hoverOver(i).head;
    row("T cell").querySelector(".only").click();
    steps.only = counter();
    choose("batch");
    steps.kept = [counter(), q("#filters").textContent];
    tick("q1");
    steps.both = counter();
    q("#datasets input").click();
    steps.query = counter();
    await pause(400);
    steps.link = location.hash.slice(1);
    q("#filters button").click();
    steps.freed = [counter(), q("#filters").textContent];
    location.hash = "";
    await pause();
    steps.reset = counter();
    location.hash = steps.link;
    await pause();
    steps.restored = [counter(), q("#color").selectedOptions[0].text];
    choose("label");
    q("#show-all").click();
    type("#search", "cELL");
    steps.found = rows().map((tr) => tr.querySelector("label").textContent);
    type("#search", "nk");
    q("#show-only").click();
    steps.searched = counter();
    location.hash = "";
    await pause();
    choose("uncertainty");
    type("#from", "0.5");
    steps.from = counter();
    type("#to", "0.75");
    steps.to = counter();
    tick("missing");
    tick("reference: not in this column");
    steps.range = [counter(), refmap.shown()];
    await pause(400);
    steps.rangeLink = location.hash.slice(1);
    return steps;
    """
    steps = act_on(page, act, tmp_path)["result"]
    query, reference = (part.columns.astype({"label": object}).fillna({"label": "missing"}) for part in cells)

    def text(in_reference, in_query):
        some = (int(in_reference.sum()), int(in_query.sum()))
        return f"{sum(some)} of 70 cells shown: {some[0]} reference, {some[1]} query"

    assert steps["start"] == "70 of 70 cells shown: 40 reference, 30 query"
    known = pd.concat([reference, query])["label"].value_counts().drop("missing")
    ranked = [*known.sort_index().sort_values(ascending=False, kind="stable").index, "missing"]
    assert steps["rows"] == [[k, str((reference["label"] == k).sum()), str((query["label"] == k).sum())] for k in ranked]
    label = query["label"]["cell-0"]
    assert steps["hidden"] == text(reference["label"] != label, query["label"] != label) != steps["start"]
    assert steps["tip"] is None
    assert steps["again"] == steps["start"] and steps["tipAgain"] == "query cell cell-0"
    t = reference["label"] == "T cell", query["label"] == "T cell"
    assert steps["only"] == text(*t)
    assert steps["kept"] == [steps["only"], "filtered by label ✕"]
    not_q1 = query["batch"] != "q1"
    assert steps["both"] == text(t[0], t[1] & not_q1) != steps["only"]
    assert steps["query"] == text(t[0] & False, t[1] & not_q1)
    assert parse_qs(steps["link"]) == {
        "color": ["batch"],
        "only.label": ["T cell"],
        "missing.label": ["off"],
        "hide.batch": ["q1"],
        "hide.reference or query": ["reference"],
    }
    assert steps["freed"] == [text(t[0] & False, not_q1), ""]
    assert steps["reset"] == steps["start"] and steps["restored"] == [steps["query"], "batch"]
    assert steps["found"] == ranked[:3]
    assert steps["searched"] == text(t[0] & False, (query["label"] == "NK $cell") & not_q1)
    uncertainty, everywhere = query["uncertainty"], reference["label"] == reference["label"]
    assert steps["from"] == text(everywhere, (uncertainty >= 0.5) | uncertainty.isna())
    within = uncertainty.between(0.5, 0.75)
    assert steps["to"] == text(everywhere, within | uncertainty.isna())
    assert steps["range"] == [text(~everywhere, within), int(within.sum())] and 0 < within.sum() < 30
    assert parse_qs(steps["rangeLink"]) == {
        "color": ["uncertainty"],
        "from.uncertainty": ["0.5"],
        "to.uncertainty": ["0.75"],
        "missing.uncertainty": ["off"],
        "absent.uncertainty": ["off"],
    }


@in_browser
def test_moving_about_and_a_link_that_opens_there(page, tmp_path):
    act = """
    const i = refmap.find("cell-5"), j = refmap.find("cell-6");
    const steps = {before: [refmap.pixel(i), refmap.pixel(j)], opened: [counter(), q("#color").selectedOptions[0].text]};
    mouse("wheel", refmap.pixel(i), WheelEvent, {deltaY: -400});
    steps.zoomed = [refmap.pixel(i), refmap.pixel(j)];
    const [x, y] = refmap.pixel(i);
    mouse("pointerdown", [x, y]);
    mouse("pointermove", [x + 30, y + 20]);
    steps.dragged = refmap.pixel(i);
    steps.tipWhile = tip();
    mouse("pointerup", [x + 30, y + 20]);
    steps.tipAfter = hoverOver(i).head;
    await pause(400);
    const link = location.hash;
    q("#fit").click();
    steps.fit = refmap.pixel(i);
    await pause(400);
    location.hash = link;
    await pause();
    steps.back = refmap.pixel(i);
    q("#points").dispatchEvent(new KeyboardEvent("keydown", {key: "0"}));
    steps.key = refmap.pixel(i);
    return steps;
    """
    steps = act_on(page, act, tmp_path, link="#color=batch&hide.batch=r&nonsense=1&from.batch=3&at=a,b,c")["result"]
    assert steps["opened"] == ["30 of 70 cells shown: 0 reference, 30 query", "batch"]
    (i, j), (zoomed_i, zoomed_j) = np.array(steps["before"]), np.array(steps["zoomed"])
    # What the mouse points at, in whole pixels, stays where it is.
    mouse = np.floor(i)
    assert zoomed_i == pytest.approx(mouse + np.exp(0.6) * (i - mouse))
    assert zoomed_j == pytest.approx(mouse + np.exp(0.6) * (j - mouse))
    assert steps["dragged"] == pytest.approx(zoomed_i + [30, 20]) and steps["tipWhile"] is None
    assert steps["tipAfter"] == "query cell cell-5"
    assert steps["fit"] == pytest.approx(i) and steps["key"] == pytest.approx(i)
    # The link rounds to 1 in 10,000 of the picture.
    assert steps["back"] == pytest.approx(steps["dragged"], abs=0.5)


@in_browser
def test_names_are_never_markup_and_nothing_leaves_the_page(tmp_path):
    asked = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = f"http://127.0.0.1:{server.server_port}"
        hostile = HOSTILE.replace("src=x", f"src={there}/name")
        table = pd.DataFrame({hostile: [hostile, "b"]}, index=[hostile, "b"])
        write_page(tmp_path / "bad.html", hostile, Cells(np.eye(2), table), label=hostile)
        act = """
        const calm = faults.length === 0 && performance.getEntriesByType("resource").length === 0;
        const tip = hoverOver(refmap.find(refmap.cell(0).name)), other = hoverOver(1);
        const found = {calm, tips: [tip, other], rows: rows().map((tr) => tr.querySelector("label").textContent),
                       images: document.images.length};
        // Even a script of the page's own could not call.
        const image = new Image();
        image.src = "THERE/image";
        await fetch("THERE/fetch").catch(() => 0);
        await pause(200);
        return found;
        """.replace("THERE", there)
        [seen] = open_pages([with_test(tmp_path / "bad.html", act, tmp_path)], tmp_path)
    finally:
        server.shutdown()
        server.server_close()
    found = seen["result"]
    assert found["calm"] and found["images"] == 0 and seen["title"] == hostile
    assert {"head": f"query cell {hostile}", "rows": {hostile: hostile}} in found["tips"]
    assert sorted(found["rows"]) == sorted([hostile, "b"])
    assert sorted(seen["faults"]) == ["policy: connect-src", "policy: img-src"] and asked == []


@in_browser
def test_the_smallest_and_the_oddest_pages_open(large, tmp_path):
    n = 2000
    random = np.random.default_rng(0).normal(size=(n, 2))
    one = Cells(np.array([[3.0, 4.0]]), pd.DataFrame({"label": ["a"], "x": [0.3]}, index=["only"]))
    pages = {
        "one": {"query": one, "label": "label"},
        "same_place": {"query": Cells(np.ones((9, 2)), pd.DataFrame({"c": 1.5}, index=range(9))), "reference": one},
        "placeless": {"query": Cells(np.full((3, 2), np.nan), pd.DataFrame({"label": list("abc")})), "label": "label"},
        "unlabelled": {"query": Cells(random, pd.DataFrame(index=range(n)))},
        "many": {"query": Cells(random, pd.DataFrame({"label": [f"type {i % 500}" for i in range(n)]})), "label": "label"},
        "missing": {"query": Cells(random, pd.DataFrame({"label": [None] * n, "x": np.nan})), "label": "label"},
    }
    act = """
    const opened = [];
    for (const option of [...q("#color").options].map((option) => option.text)) { choose(option); opened.push(rows().length); }
    return {counter: counter(), opened, tip: refmap.cells ? hoverOver(refmap.cells - 1)?.head : null,
            notes: q("#notes").textContent, ground: document.documentElement.scrollWidth <= innerWidth};
    """
    for name, arguments in pages.items():
        write_page(tmp_path / f"{name}.html", name, **arguments)
    shutil.copy(large, tmp_path / "large.html")
    names = [*pages, "large"]
    copies = [with_test(tmp_path / f"{name}.html", act, tmp_path) for name in names]
    # As wide as a phone.
    seen = dict(zip(names, open_pages(copies, tmp_path, *RENDERERS["webgl"], size=(390, 800))))
    assert {name: page["faults"] for name, page in seen.items()} == {name: [] for name in names}
    assert all(page["resources"] == [] and page["result"]["ground"] for page in seen.values())
    results = {name: page["result"] for name, page in seen.items()}
    assert {name: result["counter"] for name, result in results.items()} == {
        "one": "1 of 1 cells shown",
        "same_place": "10 of 10 cells shown: 1 reference, 9 query",
        "placeless": "There are no cells to show.",
        "unlabelled": "2,000 of 2,000 cells shown",
        "many": "2,000 of 2,000 cells shown",
        "missing": "2,000 of 2,000 cells shown",
        "large": "200,000 of 200,000 cells shown: 100,000 reference, 100,000 query",
    }
    # Rows of the legend, by column: reference or query first.
    assert {name: result["opened"] for name, result in results.items()} == {
        "one": [1, 1, 0],
        "same_place": [2, 2, 1, 1],
        "placeless": [0, 0],
        "unlabelled": [1],
        "many": [1, 500],
        "missing": [1, 1, 1],
        "large": [2, 60, 0, 2, 0, 0],
    }
    assert results["one"]["tip"] == "query cell only" and results["placeless"]["tip"] is None
    assert results["large"]["tip"].startswith("query cell q0000")
    assert results["unlabelled"]["notes"] == "There are no labels to colour the cells by."
    assert results["placeless"]["notes"] == "Cells of the query that have no place in the picture, and are left out: 3."
