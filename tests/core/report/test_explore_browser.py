"""The page to look around in, in a real browser: what it shows, filters and finds, and that nothing leaves it."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pytest
from browser import (
    HOSTILE,
    RENDERERS,
    WHICH,
    act_on,
    content_of,
    in_browser,
    make_cells,
    names_of,
    open_pages,
    with_test,
    write,
)
from refmap.report.explore.palette import colors
from refmap.report.plots import GREY


@pytest.fixture(scope="module")
def cells():
    return make_cells()


@pytest.fixture(scope="module")
def written(cells, tmp_path_factory):
    return write(tmp_path_factory.mktemp("explore") / "page.html", *cells, color="label", shares=["uncertainty"])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """150,000 cells of either dataset, of which 1,000 of the reference's have no place."""
    rng = np.random.default_rng(0)
    n = 150_000
    labels = np.array([f"cell type number {i}" for i in range(60)])

    columns = {WHICH: np.repeat(["reference", "query"], n), "label": labels[rng.integers(0, 60, 2 * n)]}
    columns |= {"uncertainty": rng.random(2 * n), "batch": rng.choice(["a", "b"], 2 * n)}
    table = pd.DataFrame({**columns, "distance": rng.gamma(2, 1, 2 * n), "pvalue": rng.random(2 * n)})
    table = table.set_axis([f"{'rq'[i // n]}{i:024}" for i in range(2 * n)])
    position = rng.normal(size=(2 * n, 2)).astype(np.float32)
    position[:1000] = np.nan
    path = tmp_path_factory.mktemp("large") / "page.html"
    return write(path, position, table, title="large", color="label", shares=["uncertainty", "pvalue"])


def test_200_000_cells_are_drawn_and_stay_small(large):
    content = content_of(large)
    assert content["behind"] == 100_000 and len(set(names_of(content))) == 200_000
    assert content["notes"][:3] == [
        "Cells of the reference that have no place in the picture, and are left out: 1,000.",
        "Cells of the reference: 100,000 of 149,000 are drawn, chosen at random.",
        "Cells of the query: 100,000 of 150,000 are drawn, chosen at random.",
    ]
    assert large.stat().st_size < 10e6
    limits = {column["name"]: column["limits"] for column in content["columns"] if "limits" in column}
    assert limits["uncertainty"] == limits["pvalue"] == [0, 1] and limits["distance"][1] > 5


@in_browser
@pytest.mark.parametrize("renderer", RENDERERS)
def test_hovering_shows_each_cell_where_it_is_drawn(cells, written, tmp_path, renderer):
    from PIL import Image

    act = "return Array.from({length: refmap.cells}, (_, i) => ({tip: hoverOver(i), at: refmap.pixel(i)}));"
    # At the end nothing is pointed at, and no name hides a cell.
    seen = act_on(
        written,
        act.replace("return", "const all =") + "mouse('pointerleave', refmap.pixel(0)); await pause(); return all;",
        tmp_path,
        *RENDERERS[renderer],
        link="#names=off",
    )
    assert seen["renderer"] == renderer and seen["title"] == "lung <1>" and len(seen["result"]) == 70
    positions, table = cells
    tips = [cell["tip"] for cell in seen["result"]]
    names = [tip["head"].split(" cell ")[1] for tip in tips]
    assert [tip["head"].split()[0] for tip in tips] == ["reference"] * 40 + ["query"] * 30
    assert sorted(names[:40]) == sorted(table.index[:40]) and sorted(names[40:]) == sorted(table.index[40:])
    assert all(set(tip["rows"]) == {"label", "batch"} for tip in tips[:40])
    for tip, true in zip(tips, table.loc[names].astype(object).fillna("missing").to_dict("records")):
        assert tip["rows"]["label"] == true["label"] and tip["rows"]["batch"] == true["batch"]
        if true[WHICH] == "reference":
            continue
        assert list(tip["rows"]) == ["label", "uncertainty", "batch", "genes"]
        assert tip["rows"]["genes"] == str(int(true["genes"]))
        if true["uncertainty"] == "missing":
            assert tip["rows"]["uncertainty"] == "missing"
        else:
            assert float(tip["rows"]["uncertainty"]) == pytest.approx(true["uncertainty"], abs=1e-4)

    # One scale for both dimensions, upwards in the picture as in the data.
    at = np.array([cell["at"] for cell in seen["result"]])
    position = positions[table.index.get_indexer(names)].astype(float)
    (scale, x), *_ = np.linalg.lstsq(np.stack([position[:, 0], np.ones(70)], 1), at[:, 0], rcond=None)
    y = (at[:, 1] + scale * position[:, 1]).mean()
    expected = np.stack([scale * position[:, 0] + x, y - scale * position[:, 1]], axis=1)
    assert scale > 20 and np.abs(at - expected).max() < 0.1

    picture = np.asarray(Image.open(tmp_path / "screenshot.png").convert("RGB")).astype(int)
    light = dict(zip(content_of(written)["columns"][0]["categories"], colors(3)))
    for cell in seen["result"]:
        (x, y), color = cell["at"], light.get(cell["tip"]["rows"]["label"], GREY)
        opacity = 0.6 if cell["tip"]["head"].startswith("reference") else 0.9
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) * opacity + 255 * (1 - opacity)
        assert np.abs(picture[round(y - 0.5), round(x - 0.5)] - rgb).max() <= 3, cell


@in_browser
def test_filters_count_the_cells_that_are_left(cells, written, tmp_path):
    act = """
    const steps = {start: counter(), rows: rows().map((tr) => [tr.querySelector("label"), ...[...tr.cells].slice(1)].map((one) => one.textContent))};
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
    steps = act_on(written, act, tmp_path)["result"]
    table = cells[1].astype({"label": object}).fillna({"label": "missing"})
    reference, query = table[:40], table[40:]

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
def test_moving_about_and_a_link_that_opens_there(written, tmp_path):
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
    steps = act_on(written, act, tmp_path, link="#color=batch&hide.batch=r&nonsense=1&from.batch=3&at=a,b,c")["result"]
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
        write(tmp_path / "bad.html", np.eye(2), table, title=hostile, color=hostile)
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
    assert {"head": f"cell {hostile}", "rows": {hostile: hostile}} in found["tips"]
    assert sorted(found["rows"]) == sorted([hostile, "b"])
    assert sorted(seen["faults"]) == ["policy: connect-src", "policy: img-src"] and asked == []


@in_browser
def test_the_smallest_and_the_oddest_pages_open(large, tmp_path):
    n = 2000
    random = np.random.default_rng(0).normal(size=(n, 2))
    ten = pd.DataFrame({WHICH: ["reference"] + ["query"] * 9, "c": [np.nan] + [1.5] * 9, "label": ["a"] + [None] * 9})
    pages = {
        "one": (np.array([[3.0, 4.0]]), pd.DataFrame({"label": ["a"], "x": [0.3]}, index=["only"])),
        "same_place": (np.ones((10, 2)), ten),
        "placeless": (np.full((3, 2), np.nan), pd.DataFrame({"label": list("abc")})),
        "unlabelled": (random, pd.DataFrame(index=range(n))),
        "many": (random, pd.DataFrame({"label": [f"type {i % 500}" for i in range(n)]})),
        "missing": (random, pd.DataFrame({"label": [None] * n, "x": np.nan})),
    }
    act = """
    const opened = [];
    for (const option of [...q("#color").options].map((option) => option.text)) { choose(option); opened.push(rows().length); }
    return {counter: counter(), opened, tip: refmap.cells ? hoverOver(refmap.cells - 1)?.head : null,
            notes: q("#notes").textContent, ground: document.documentElement.scrollWidth <= innerWidth};
    """
    for name, (position, table) in pages.items():
        write(tmp_path / f"{name}.html", position, table, title=name, color="label" if "label" in table else None)
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
        "same_place": [2, 1, 2],
        "placeless": [0, 0],
        "unlabelled": [1],
        "many": [1, 500],
        "missing": [1, 1, 1],
        "large": [2, 60, 0, 2, 0, 0],
    }
    assert results["one"]["tip"] == "cell only" and results["placeless"]["tip"] is None
    assert results["large"]["tip"].startswith("query cell q0000")
    assert results["unlabelled"]["notes"] == ""
    assert results["placeless"]["notes"] == "Cells that have no place in the picture, and are left out: 3."
