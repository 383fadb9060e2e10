"""The page to look around in, in a real browser: genes, the lasso, what is saved, and all of it by keyboard."""

import csv
import io

import numpy as np
import pandas as pd
import pytest
from browser import HOSTILE, RENDERERS, WHICH, act_on, content_of, in_browser, make_cells, names_of, write
from matplotlib.path import Path as Polygon
from refmap.report.explore import Genes, page
from refmap.report.explore.palette import MISSING_COLORS
from refmap.report.plots import UNKNOWN_COLOR
from scipy import sparse

GENES = ["CD3E", HOSTILE, "flat"]
# What a page would save: read instead of written to a disk.
SAVED = """
const saved = [];
const save = async () => {
  const make = URL.createObjectURL, click = HTMLAnchorElement.prototype.click;
  let blob, name;
  URL.createObjectURL = (given) => { blob = given; return make.call(URL, given); };
  HTMLAnchorElement.prototype.click = function () { name = this.download; };
  q("#save").click();
  URL.createObjectURL = make;
  HTMLAnchorElement.prototype.click = click;
  return [name, new TextDecoder().decode(await blob.arrayBuffer())];
};
"""
KEYS = """
const press = (key, more = {}) =>
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...more}));
"""


@pytest.fixture(scope="module")
def cells():
    position, table = make_cells()
    return position, table.assign(label=table["label"].astype(object).replace("B cell", "Unknown"))


@pytest.fixture(scope="module")
def values():
    """Of the query's cells."""
    rng = np.random.default_rng(5)
    return np.stack([rng.gamma(2, 1, 30) * (rng.random(30) < 0.6), rng.random(30), np.zeros(30)], axis=1)


@pytest.fixture(scope="module")
def written(cells, values, tmp_path_factory):
    genes = Genes(
        names=GENES,
        measured=np.arange(70) >= 40,
        read=lambda rows, n: sparse.csr_matrix(values[rows - 40, :n]),
        unit="log1p",
        notes=["The others are elsewhere."],
    )
    path = tmp_path_factory.mktemp("explore") / "page.html"
    return write(path, *cells, color="label", shares=["uncertainty"], genes=genes)


def rows_of(text):
    return list(csv.reader(io.StringIO(text)))


@in_browser
def test_a_gene_colours_the_cells_that_have_values(cells, values, written, tmp_path):
    act = """
    const steps = {offered: [...q("#gene-names").options].map((option) => option.value), notes: q("#gene-notes").textContent};
    const enter = async (name) => { q("#gene").value = name; q("#gene").dispatchEvent(new Event("change")); await pause(); };
    await enter("cd3e");
    steps.shown = [q("#color").selectedOptions[0].text, q("#gene").value, rows().map((tr) => tr.textContent)];
    steps.cells = Array.from({length: refmap.cells}, (_, i) => refmap.cell(i));
    type("#from", "0.5");
    steps.filtered = counter();
    await pause(400);
    steps.link = location.hash;
    await enter("NOPE");
    steps.unknown = q("#gene-notes").textContent;
    await enter(steps.offered[1]);
    steps.hostile = [q("#color").selectedOptions[0].text, document.images.length];
    await enter("");
    steps.left = q("#color").selectedOptions[0].text;
    location.hash = "";
    await pause();
    location.hash = steps.link;
    await pause();
    steps.back = [counter(), q("#color").selectedOptions[0].text];
    return steps;
    """
    steps = act_on(written, act, tmp_path)["result"]
    assert steps["offered"] == GENES and steps["notes"] == "The others are elsewhere."
    assert steps["shown"] == ["gene CD3E", "CD3E", ["reference: not in this columnselect400"]]
    true = dict(zip(cells[1].index[40:], values[:, 0]))
    for cell in steps["cells"]:
        shown = dict(cell["values"]).get("gene CD3E")
        if cell["dataset"] == "reference":
            assert shown is None
        else:
            assert float(shown) == pytest.approx(true[cell["name"]], abs=values[:, 0].max() / 253 / 2 + 1e-3)
    step = values[:, 0].max() / 253
    shown = np.round(values[:, 0] / step) * step >= 0.5 - step / 2
    assert steps["filtered"] == f"{40 + shown.sum()} of 70 cells shown: 40 reference, {shown.sum()} query"
    assert steps["unknown"].startswith('There is no gene "NOPE" among the 3 in this page.')
    assert steps["hostile"] == [f"gene {HOSTILE}", 0] and steps["left"] == "label"
    assert steps["back"] == [steps["filtered"], "gene CD3E"]


@in_browser
def test_a_link_opens_at_a_gene(written, tmp_path):
    act = "return [q('#color').selectedOptions[0].text, counter()];"
    told = act_on(written, "return [by.name, q('#gene-notes').textContent];", tmp_path, link="#color=gene+NOPE")["result"]
    assert told == ["label", 'There is no gene "NOPE" among the 3 in this page.The others are elsewhere.']
    assert act_on(written, act, tmp_path, link="#color=gene+flat&to.gene+flat=-1")["result"] == [
        "gene flat",
        "40 of 70 cells shown: 40 reference, 0 query",
    ]


@in_browser
def test_a_page_without_genes_offers_none(cells, tmp_path):
    path = write(tmp_path / "page.html", *cells)
    assert act_on(path, "return [q('#genes').hidden, q('#drawn').hidden];", tmp_path)["result"] == [True, True]


@in_browser
def test_the_lasso_takes_the_cells_within_the_line(cells, written, tmp_path):
    act = """
    const steps = {before: q("#selected").textContent, disabled: [q("#save").disabled, q("#clear").disabled]};
    const box = q("#points").getBoundingClientRect(), at = (x, y) => [Math.round(box.left + x * box.width), Math.round(box.top + y * box.height)];
    const line = Array.from({length: 24}, (_, k) => {
      const radius = k % 2 ? 0.18 : 0.34, turn = k / 24 * 2 * Math.PI;
      return at(0.5 + radius * Math.cos(turn), 0.5 + radius * 1.3 * Math.sin(turn));
    });
    const draw = (line, more = {}) => {
      mouse("pointerdown", line[0], PointerEvent, more);
      for (const place of line.slice(1)) mouse("pointermove", place, PointerEvent, more);
      mouse("pointerup", line[line.length - 1], PointerEvent, more);
    };
    const pixels = () => Array.from({length: refmap.cells}, (_, i) => refmap.pixel(i));
    const seen = pixels();
    tick("T cell");
    draw(line, {shiftKey: true});
    Object.assign(steps, {line, edge: at(0.3, 0)[0], pixels: seen, still: pixels(), selected: refmap.selected(), says: q("#selected").textContent});
    steps.parts = [...q("#composition").querySelectorAll("tbody tr")].map((tr) => [...tr.cells].map((td) => td.textContent));
    tick("T cell");
    steps.file = await save();
    steps.cells = Array.from({length: refmap.cells}, (_, i) => refmap.cell(i));
    q("#lasso").click();
    steps.pressed = q("#lasso").getAttribute("aria-pressed");
    draw(line);
    steps.again = refmap.selected();
    draw([at(0.01, 0.02), at(0.01, 0.98), at(0.3, 0.98), at(0.3, 0.02)], {shiftKey: true});
    steps.added = refmap.selected();
    choose("uncertainty");
    steps.numbers = q("#composition").textContent;
    steps.numbersFile = await save();
    q("#lasso").click();
    draw([at(0.4, 0.4), at(0.5, 0.4)]);
    steps.moved = [refmap.pixel(0), seen[0]];
    steps.kept = refmap.selected();
    q("#clear").click();
    steps.after = [q("#selected").textContent, refmap.selected(), q("#composition").childElementCount];
    return steps;
    """
    steps = act_on(written, SAVED + act, tmp_path)["result"]
    assert steps["before"].startswith("No cells are selected") and steps["disabled"] == [True, True]
    table = cells[1].loc[[cell["name"] for cell in steps["cells"]]]
    inside = Polygon(steps["line"]).contains_points(np.array(steps["pixels"]))
    not_t = (table["label"] != "T cell").to_numpy()
    assert 5 < inside.sum() < 60 and (inside & ~not_t).any()
    # Drawing a line moves nothing, and takes no hidden cell.
    assert steps["still"] == steps["pixels"]
    assert steps["selected"] == list(np.flatnonzero(inside & not_t))
    chosen = table[inside & not_t]
    counts = chosen[WHICH].value_counts()
    assert steps["says"] == f"{len(chosen)} cells selected: {counts['reference']} reference, {counts['query']} query."
    by_label = chosen["label"].fillna("missing").value_counts()
    assert {name: (n, share) for name, n, share in steps["parts"]} == {
        label: (str(n), f"{100 * n / len(chosen):.1f}%") for label, n in by_label.items()
    }
    assert [int(n) for _, n, _ in steps["parts"]] == sorted(by_label, reverse=True)
    name, text = steps["file"]
    assert name == "lung_1__selected.csv" and text.endswith("\r\n")
    assert rows_of(text) == [
        ["cell", WHICH, "label"],
        *([cell, *row] for cell, row in zip(chosen.index, chosen[[WHICH, "label"]].fillna("").to_numpy().tolist())),
    ]
    assert steps["pressed"] == "true" and steps["again"] == list(np.flatnonzero(inside))
    left = np.array(steps["pixels"])[:, 0] < steps["edge"]
    assert (left & ~inside).any() and steps["added"] == list(np.flatnonzero(inside | left))
    uncertainty = table["uncertainty"].iloc[steps["added"]].dropna()
    assert steps["numbers"].startswith(f"uncertainty: mean {uncertainty.mean():.4g}"[:-1])
    assert steps["numbers"].endswith(f"of {len(uncertainty)} cells with a value.")
    saved = pd.Series({row[0]: row[2] for row in rows_of(steps["numbersFile"][1])[1:]})
    assert len(saved) == len(steps["added"])
    assert pd.to_numeric(saved[uncertainty.index]).to_numpy() == pytest.approx(uncertainty.to_numpy(), abs=1e-4)
    # With neither button nor Shift, dragging moves the picture and leaves the selection.
    assert steps["moved"][0] != steps["moved"][1] and steps["kept"] == steps["added"]
    assert steps["after"][0] == steps["before"] and steps["after"][1:] == [[], 0]


@in_browser
@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_moving_picture_that_would_take_too_long_is_of_a_sample(written, tmp_path, renderer):
    act = """
    // Frames come as time does, which runs ahead of the browser's; whatever is measured takes 100 ms.
    let clock = 0;
    performance.now = () => (clock += 100);
    window.requestAnimationFrame = (draw) => setTimeout(draw, 16);
    choose("batch");
    await pause();
    const steps = {all: refmap.drawn()};
    q("#in").click();
    await pause();
    steps.moving = refmap.drawn();
    await pause(300);
    steps.still = refmap.drawn();
    return steps;
    """
    steps = act_on(written, act, tmp_path, *RENDERERS[renderer])["result"]
    # 30 of 100 ms are 12 of 40 cells and 9 of 30.
    assert steps == {"all": 70, "moving": 21, "still": 70}


@in_browser
def test_everything_can_be_done_by_keyboard(cells, written, tmp_path):
    act = """
    const focusable = [...document.querySelectorAll("button, input, select, canvas[tabindex]")]
      .filter((one) => one.checkVisibility() && !one.disabled);
    const steps = {count: focusable.length, unreached: [], bare: [], unnamed: []};
    for (const one of focusable) {
      one.focus();
      if (document.activeElement !== one || one.tabIndex < 0) steps.unreached.push(one.outerHTML);
      const {outlineStyle, outlineWidth} = getComputedStyle(one);
      if (outlineStyle === "none" || !parseFloat(outlineWidth)) steps.bare.push(one.outerHTML);
      if (!(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent)) steps.unnamed.push(one.outerHTML);
    }
    q("#points").focus();
    const at = () => [refmap.pixel(0), refmap.pixel(1)], moves = {};
    for (const key of ["ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "+", "-", "+", "0"]) { press(key); moves[key] = at(); }
    steps.moves = moves;
    press("Enter");
    steps.tip = tip().head;
    const box = q("#points").getBoundingClientRect();
    steps.middle = [box.left + box.width / 2, box.top + box.height / 2];
    steps.cells = Array.from({length: refmap.cells}, (_, i) => [refmap.cell(i).name, refmap.pixel(i)]);
    press("Escape");
    steps.untold = tip();
    // The lasso's other way: by entries of the legend, and by what is shown.
    const select = row("T cell").querySelector(".select");
    steps.label = select.getAttribute("aria-label");
    select.focus(); select.click();
    steps.selected = refmap.selected();
    row("Unknown").querySelector(".select").click();
    steps.more = refmap.selected().length;
    q("#clear").focus(); q("#clear").click();
    steps.focus = document.activeElement.id;
    tick("T cell");
    steps.kept = document.activeElement.id;
    row("T cell").querySelector("input").focus(); document.activeElement.click();
    steps.onRow = document.activeElement.closest("tr").querySelector("label").textContent;
    tick("T cell");
    q("#select-shown").click();
    steps.shown = [refmap.selected().length, counter()];
    // Nothing moves by itself, whoever likes less of that or not.
    steps.animations = document.getAnimations().length;
    steps.transitions = [...document.querySelectorAll("*")].filter((one) => parseFloat(getComputedStyle(one).transitionDuration)).length;
    return steps;
    """
    steps = act_on(written, KEYS + act, tmp_path)["result"]
    assert steps["count"] > 20 and steps["unreached"] == [] and steps["bare"] == [] and steps["unnamed"] == []
    moves = {key: np.array(value) for key, value in steps["moves"].items()}
    apart = moves["ArrowLeft"][1] - moves["ArrowLeft"][0]
    assert moves["ArrowUp"] - moves["ArrowLeft"] == pytest.approx(np.array([[0, 40], [0, 40]]))
    assert moves["ArrowDown"] == pytest.approx(moves["0"]) and moves["ArrowRight"] == pytest.approx(moves["0"] + [0, 40])
    assert moves["+"][1] - moves["+"][0] == pytest.approx(1.5 * apart) and moves["-"] == pytest.approx(moves["0"])
    away = {name: np.hypot(*(np.array(at) - steps["middle"])) for name, at in steps["cells"]}
    assert steps["tip"].split(" cell ")[1] == min(away, key=away.get) and steps["untold"] is None
    table = cells[1].loc[[name for name, _ in steps["cells"]]]
    t_cells = np.flatnonzero(table["label"] == "T cell")
    assert steps["label"] == "Add to the selection: T cell" and steps["selected"] == list(t_cells)
    assert steps["more"] == len(t_cells) + (table["label"] == "Unknown").sum()
    assert steps["focus"] == "select-shown" == steps["kept"] and steps["onRow"] == "T cell"
    assert steps["shown"][0] == 70 - len(t_cells) and steps["shown"][1].startswith(f"{70 - len(t_cells)} of 70 cells shown")
    assert steps["animations"] == 0 and steps["transitions"] == 0


@in_browser
def test_the_legend_says_how_many_cells_are_hidden(cells, written, tmp_path):
    act = """
    const hidden = () => q("#hidden").textContent, steps = [hidden()];
    tick("T cell"); steps.push(hidden());
    tick("Unknown"); tick("missing"); steps.push(hidden());
    choose("batch"); steps.push(hidden());
    tick("q1"); steps.push(hidden());
    q("#unhide").click(); steps.push(hidden(), counter(), document.activeElement.id);
    choose("uncertainty"); type("#from", "0.5"); steps.push(hidden());
    return steps;
    """
    table = cells[1].assign(label=cells[1]["label"].fillna("missing"))
    n = {label: int((table["label"] == label).sum()) for label in table["label"].unique()}
    three, q1 = table["label"].isin(["T cell", "Unknown", "missing"]), table["batch"] == "q1"
    assert act_on(written, act, tmp_path)["result"] == [
        "No cells are hidden.",
        f"Hidden: {n['T cell']} cells of 1 label.",
        f"Hidden: {three.sum()} cells of 2 labels.",
        f"Hidden: {three.sum()} cells by other filters.",
        f"Hidden: {q1.sum()} cells of 1 label, and {(three & ~q1).sum()} cells by other filters.",
        "No cells are hidden.",
        "70 of 70 cells shown: 40 reference, 30 query",
        "color",
        f"Hidden: {(table['uncertainty'] < 0.5).sum()} cells.",
    ]


@in_browser
def test_unknown_is_drawn_grey(cells, tmp_path):
    from PIL import Image

    position, table = cells
    path = write(tmp_path / "page.html", position, table[["label"]].assign(label="Unknown"), color="label")
    seen = act_on(path, "return Array.from({length: 70}, (_, i) => refmap.pixel(i));", tmp_path, link="#names=off")["result"]
    picture = np.asarray(Image.open(tmp_path / "screenshot.png").convert("RGB")).astype(int)
    grey = int(UNKNOWN_COLOR[1:3], 16) * 0.9 + 255 * 0.1
    assert all(np.abs(picture[round(y - 0.5), round(x - 0.5)] - grey).max() <= 3 for x, y in seen)
    assert UNKNOWN_COLOR not in MISSING_COLORS.values()


@in_browser
@pytest.mark.parametrize("draw", ["density", "points", None])
def test_of_too_many_cells_the_density_is_drawn(monkeypatch, tmp_path, draw):
    monkeypatch.setattr(page, "MOST_CELLS", 4)
    # All cells but one lie in the lower left and the upper right corner.
    position = np.array([[0.0, 0.0]] * 600 + [[10.0, 10.0]] * 10 + [[5.0, 5.0]])
    path = write(tmp_path / "page.html", position, pd.DataFrame(index=range(611)))
    assert content_of(path)["density"]["cells"] == 611 and len(names_of(content_of(path))) == 4
    act = """
    const ground = q("#ground"), half = ground.height / 2;
    // The greatest opacity of the upper and of the lower half.
    const most = (from) => ground.getContext("2d").getImageData(0, from, ground.width, half).data
      .reduce((most, value, k) => (k % 4 === 3 ? Math.max(most, value) : most), 0);
    return {drawn: refmap.drawn(), choice: q("#drawn :checked").value, tip: hoverOver(0) !== null, ground: [most(0), most(half)]};
    """
    seen = act_on(path, act, tmp_path, link=f"#draw={draw}" if draw else "")["result"]
    assert (
        seen["choice"] == (draw or "both")
        and seen["drawn"] == (0 if draw == "density" else 4)
        and seen["tip"] == (draw != "density")
    )
    expected = [1 + round(254 * np.log(11) / np.log(601)), 255]
    assert seen["ground"] == ([0, 0] if draw == "points" else pytest.approx(expected, abs=1))
