"""The page to look around in: what its file holds. What it does in a browser is tested beside this."""

import base64
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from browser import HOSTILE, content_of, decode, filled, make_cells, names_of, unpack, values_of, write
from refmap.report.explore import density, page, palette
from refmap.report.explore.columns import MISSING, MOST_CODE
from refmap.report.explore.packing import compress
from refmap.report.explore.palette import color_categories, color_datasets, colors, contrast, visible
from refmap.report.plots import FEW_COLORS, GREY, MANY_COLORS, UNKNOWN_COLOR


@pytest.fixture(scope="module")
def cells():
    return make_cells()


@pytest.fixture(scope="module")
def written(cells, tmp_path_factory):
    return write(tmp_path_factory.mktemp("explore") / "page.html", *cells, color="label", shares=["uncertainty"])


def test_what_went_in_comes_out(cells, written):
    position, table = cells
    content = content_of(written)
    assert content["datasets"]["categories"] == ["reference", "query"] and content["color"] == "label"
    assert content["behind"] == 40 and list(decode(content["datasets"]["codes"], 2)) == [0] * 40 + [1] * 30
    assert [column["name"] for column in content["columns"]] == ["label", "uncertainty", "batch", "genes"]
    span = np.ptp(position, axis=0)
    assert content["extent"] == pytest.approx(span / span.max())
    # The order is drawn at random, the reference's cells before the query's.
    at = table.index.get_indexer(names_of(content))
    assert sorted(at) == list(range(70)) and sorted(at[:40]) == list(range(40)) and list(at[:40]) != list(range(40))
    back = decode(content["places"], 2).reshape(-1, 2) / MOST_CODE * span.max() + position.min(axis=0)
    assert np.abs(back - position[at]).max() <= span.max() / MOST_CODE

    for column in content["columns"]:
        values, absent = values_of(column)
        name = column["name"]
        assert list(absent) == [name in ("uncertainty", "genes")] * 40 + [False] * 30
        true = table[name].iloc[at]
        if name == "uncertainty":
            assert np.nanmax(np.abs(values.astype(float) - true)) <= column["step"] / 2 + 1e-9
            assert (np.isnan(values.astype(float)) == true.isna()).all() and column["limits"] == [0, 1]
        elif name == "genes":
            assert (values[40:] == true[40:]).all()
        else:
            assert filled(values) == filled(true)


def test_the_same_seed_gives_the_same_page(cells, written, tmp_path):
    again = write(tmp_path / "again.html", *cells, color="label", shares=["uncertainty"])
    assert again.read_bytes() == written.read_bytes()
    other = write(tmp_path / "other.html", *cells, color="label", shares=["uncertainty"], seed=1)
    assert other.read_bytes() != written.read_bytes()


def test_the_page_names_no_other_place_and_runs_one_script(written):
    text = written.read_text()
    assert not re.search(r"https?:|//[a-z]+\.|\bsrc=|@import|url\(|<link (?!rel=\"icon\" href=\"data:,\")", text)
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}';" in policy
    assert text.count("<script") == 2 and "<title>lung &lt;1&gt;</title>" in text and "{{" not in text


def test_the_script_holds_every_part_once():
    assert sorted(page.SCRIPTS) == sorted(path.name for path in page.PARTS.glob("*.js"))
    documented = (page.PARTS / page.SCRIPTS[0]).read_text()
    assert [f"//   {name}" in documented for name in page.SCRIPTS[1:]] == [True] * (len(page.SCRIPTS) - 1)


def test_what_a_stranger_wrote_stays_inside_its_element(tmp_path):
    table = pd.DataFrame({HOSTILE: [HOSTILE, "{{script}}"], "<!--": ["{{title}}", "\u2028\u202e"]}, index=[HOSTILE, "b"])
    text = write(tmp_path / "bad.html", np.eye(2), table, title=HOSTILE, color=HOSTILE, notes=[HOSTILE]).read_text()
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text and "<!--" not in text
    content = content_of(tmp_path / "bad.html")
    assert content["title"] == HOSTILE and HOSTILE in names_of(content) and content["notes"] == [HOSTILE]
    assert content["columns"][0]["name"] == HOSTILE and set(content["columns"][0]["categories"]) == {HOSTILE, "{{script}}"}


def test_a_joint_atlas_has_datasets_side_by_side(tmp_path):
    """Several queries and a reference, without expression, coloured by what each cell came from."""
    rng = np.random.default_rng(0)
    which = pd.Series(["q2"] * 5 + ["atlas"] * 20 + ["q1"] * 10)
    table = pd.DataFrame({"dataset": which, "label": rng.choice(["a", "b"], 35)}).assign(
        uncertainty=np.where(which == "atlas", np.nan, 0.5)
    )
    content = content_of(write(tmp_path / "joint.html", rng.normal(size=(35, 2)), table, datasets="dataset", background="atlas"))
    assert content["datasets"]["categories"] == ["atlas", "q2", "q1"] and content["behind"] == 20
    assert content["datasets"]["light"] == [GREY, *FEW_COLORS[:2]] and content["color"] is None and content["genes"] is None
    codes = decode(content["datasets"]["codes"], 2)
    assert list(codes[:20]) == [0] * 20 and sorted(codes[20:]) == [1] * 5 + [2] * 10
    assert [column["name"] for column in content["columns"]] == ["label", "uncertainty"]
    assert list(values_of(content["columns"][1])[1]) == [True] * 20 + [False] * 15
    at = [int(name) for name in names_of(content)]
    assert list(which[at]) == [content["datasets"]["categories"][code] for code in codes]


@pytest.mark.parametrize(
    ("n_reference", "n_query", "drawn"), [(90, 20, (80, 20)), (20, 90, (20, 80)), (90, 90, (50, 50)), (0, 120, (0, 100))]
)
def test_the_query_keeps_at_least_half_of_the_room(monkeypatch, n_reference, n_query, drawn):
    monkeypatch.setattr(page, "MOST_CELLS", 100)
    placed, behind = np.arange(5, 5 + n_reference + n_query), np.arange(n_reference + n_query) < n_reference
    rows, n_behind = page._choose(placed, behind, np.random.default_rng(0))
    assert (n_behind, len(rows) - n_behind) == drawn and len(set(rows)) == len(rows)
    assert (rows[:n_behind] < 5 + n_reference).all() and (rows[n_behind:] >= 5 + n_reference).all()


def test_of_too_many_cells_all_are_in_the_density(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "MOST_CELLS", 50)
    monkeypatch.setattr(density, "SIDE", 4)
    rng = np.random.default_rng(0)
    position, table = rng.normal(size=(500, 2)), pd.DataFrame(index=range(500))
    position[:20] = np.nan
    content = content_of(write(tmp_path / "page.html", position, table))
    assert len(names_of(content)) == 50 == len(content["places"]) * 3 // 4 // 4
    assert content["notes"] == [
        "Cells that have no place in the picture, and are left out: 20.",
        "Cells: 50 of 480 are drawn, chosen at random.",
        "What is counted and selected are the cells that are drawn; beneath them lies the density of all 480, darker where there are more.",
    ]
    side = np.ptp(position[20:], axis=0).max()
    at = np.minimum((position[20:] - position[20:].min(axis=0)) / side * 4, 3.999).astype(int)
    counts, _, _ = np.histogram2d(at[:, 1], at[:, 0], bins=4, range=[[0, 4], [0, 4]])
    found = content["density"]
    assert found["cells"] == 480 == counts.sum() and found["most"] == counts.max() and found["side"] == 4
    expected = np.where(counts > 0, 1 + 254 * np.log(1 + counts) / np.log(1 + counts.max()), 0)
    assert np.abs(np.frombuffer(unpack(found["levels"]), np.uint8).reshape(4, 4) - expected).max() <= 0.5
    # Those drawn lie where they lay, on the scale of all of them.
    back = decode(content["places"], 2).reshape(-1, 2) / MOST_CODE * side + position[20:].min(axis=0)
    assert np.abs(back - position[[int(name) for name in names_of(content)]]).max() <= side / MOST_CODE


def test_where_all_cells_are_drawn_there_is_no_density(written):
    assert content_of(written)["density"] is None and content_of(written)["notes"] == []


def test_names_that_take_too_much_room_are_left_out(monkeypatch, cells, tmp_path):
    sizes = [len(compress(json.dumps(names).encode())) for names in (list(cells[1].index[40:]), list(cells[1].index))]
    monkeypatch.setattr(page, "MOST_NAME_BYTES", sum(sizes) // 2)
    content = content_of(write(tmp_path / "page.html", *cells))
    assert content["names"]["start"] == 40 and sorted(names_of(content)) == sorted(cells[1].index[40:])
    assert content["notes"][0].startswith("The names of the cells of reference would take too much room")
    monkeypatch.setattr(page, "MOST_NAME_BYTES", 10)
    content = content_of(write(tmp_path / "page.html", *cells))
    assert content["names"] is None and content["notes"][0].startswith("The names of the cells would take too much room")


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
            "objects": pd.Series([1, 2.5, None] * (n // 3), dtype=object),
            "age": pd.Series([1.5, np.nan, "old"] * (n // 3), dtype=object),
        }
    )
    content = content_of(write(tmp_path / "page.html", np.random.default_rng(0).normal(size=(n, 2)), table))
    columns = {column["name"]: column for column in content["columns"]}
    order = [int(name) for name in names_of(content)]
    assert columns["one"]["categories"] == ["a"] and columns["one"]["light"] == [FEW_COLORS[0]]
    assert len(columns["many"]["categories"]) == 500 and columns["many"]["bytes"] == 2 and columns["one"]["bytes"] == 1
    # 100 types have two cells: they come first, by name.
    assert columns["many"]["categories"][:2] == ["type 0", "type 1"] and columns["many"]["categories"][100] == "type 100"
    assert columns["yes"]["categories"] == ["False", "True"]
    # Numbers and text are text.
    assert columns["age"]["categories"] == ["1.5", "old"]
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
    assert back["objects"].fillna(-1).to_numpy()[:3] == pytest.approx([1, 2.5, -1])
    assert np.abs(back["wide"] - table["wide"]).max() <= columns["wide"]["step"] / 2
    assert content["color"] is None and content["datasets"]["categories"] == ["cells"]


def test_cells_that_do_not_fit_are_refused(tmp_path):
    path, table = tmp_path / "page.html", pd.DataFrame({"a": [1, 2], "which": ["x", None]})
    with pytest.raises(ValueError, match=r"positions of shape \(3, 2\) do not fit 2 cells"):
        write(path, np.zeros((3, 2)), table)
    with pytest.raises(ValueError, match="the column 'a' has 3 values for 2 cells"):
        page.write_page(path, "x", np.eye(2), ["1", "2"], {"a": [1, 2, 3]})
    with pytest.raises(ValueError, match=r"there is no column 'label': there are \['a', 'which'\]"):
        write(path, np.eye(2), table, color="label")
    with pytest.raises(ValueError, match="1 cells have no value in the column 'which'"):
        write(path, np.eye(2), table, datasets="which")
    with pytest.raises(ValueError, match=r"there is no dataset 'y' for the background: there are \['1', '2'\]"):
        write(path, np.eye(2), table, datasets="a", background="y")
    assert not path.exists()


def test_colors_are_those_of_the_pictures():
    assert colors(8) == list(FEW_COLORS) and colors(19) == MANY_COLORS
    nine = colors(9)
    assert nine[0] == MANY_COLORS[0] and nine[-1] == MANY_COLORS[-1] and len(set(nine)) == 9
    assert colors(500)[19:38] == MANY_COLORS and len(colors(500)) == 500


@pytest.mark.parametrize("n", [0, 1, 8, 30])
def test_unknown_is_grey_and_takes_no_color_from_others(n):
    names = [f"type {i}" for i in range(n)]
    mixed = color_categories([*names[:1], "Unknown", *names[1:]])
    plain = color_categories(names)
    at = min(n, 1)
    for theme, found in mixed.items():
        unknown = found.pop(at)
        assert found == plain[theme]
        r, g, b = (int(unknown[i : i + 2], 16) for i in (1, 3, 5))
        assert r == g == b and unknown != palette.MISSING_COLORS[theme] and unknown not in found
    assert color_categories(["Unknown"])["light"] == [UNKNOWN_COLOR]


def test_the_background_is_grey():
    assert color_datasets(["r", "a", "b"], "r")["light"] == [GREY, *FEW_COLORS[:2]]
    assert color_datasets(["a", "b"], None) == color_categories(["a", "b"])


def test_colors_can_be_seen_and_told_apart_on_the_dark_background():
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for n in (8, 19):
        dark = [visible(color) for color in colors(n)]
        assert min(contrast(color, palette.DARK_BACKGROUND) for color in dark) >= palette.LEAST_CONTRAST
        rgb = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in [*dark, palette.DARK_GREY]])
        apart = np.linalg.norm(rgb[:, None] - rgb, axis=2)[np.triu_indices(n + 1, 1)]
        assert apart.min() > 25
