"""Which genes the page to look around in has, and their values."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from browser import content_of, names_of, unpack, write
from refmap.common.storage import write_zarr
from refmap.report import expression
from refmap.report.explore import Genes
from refmap.report.explore import expression as packing
from refmap.report.expression import Expression, rank_markers, take_in_turns
from scipy import sparse

N_CELLS, N_GENES = 240, 40
MARKERS = {"A": [0, 1, 2], "B": [3, 4], "Unknown": [5, 6]}


@pytest.fixture(scope="module")
def counts():
    """Counts of cells x genes: three kinds of cells have markers of their own, gene 39 is nowhere."""
    rng = np.random.default_rng(0)
    kinds = np.array(list(MARKERS), dtype=object)[np.arange(N_CELLS) % 3]
    mean = np.tile(rng.uniform(0.2, 2, N_GENES), (N_CELLS, 1))
    for kind, genes in MARKERS.items():
        mean[np.ix_(kinds == kind, genes)] += 6
    mean[:, 39] = 0
    return rng.poisson(mean).astype(np.float32), pd.Series(kinds)


def stored(folder, values):
    var = pd.DataFrame({"found": True}, index=[f"gene{i}" for i in range(values.shape[1])])
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(values))])
    write_zarr(ad.AnnData(sparse.csr_matrix(values), obs=obs, var=var), folder / "aligned.zarr")
    return folder / "aligned.zarr"


def log_normalized(values, totals):
    """By the definition, of a dense array."""
    scale = np.median(totals[totals > 0]) / np.where(totals > 0, totals, 1)
    return np.log1p(values * scale[:, None])


@pytest.mark.parametrize("chunk_rows", [7, 1000])
def test_values_are_those_of_the_rows_and_genes_asked_for(monkeypatch, tmp_path, counts, chunk_rows):
    monkeypatch.setattr(expression, "CHUNK_ROWS", chunk_rows)
    values = counts[0].copy()
    values[10] = 0
    placed = np.arange(N_CELLS) % 5 != 0
    found = Expression(stored(tmp_path, values), placed)
    assert found.are_counts
    rows, columns = np.array([0, 3, 8, 9, 100, 191]), np.array([30, 2, 7])
    chosen = values[placed][rows]
    expected = log_normalized(chosen, chosen.sum(axis=1))[:, columns]
    np.testing.assert_allclose(found.values(rows, columns).toarray(), expected, rtol=1e-5)


def test_values_that_are_no_counts_are_used_as_they_are(tmp_path, counts):
    values = np.log1p(counts[0]) - 0.1 * (counts[0] > 0)
    found = Expression(stored(tmp_path, values), np.ones(N_CELLS, bool))
    assert not found.are_counts
    np.testing.assert_allclose(found.values(np.arange(3), np.arange(5)).toarray(), values[:3, :5], rtol=1e-6)
    assert found.genes(np.arange(N_CELLS), 0, [], "x.zarr", 0).unit == "values as the model takes them"


def test_markers_of_the_labels_come_first_and_then_what_varies_most(tmp_path, counts):
    values, kinds = counts
    found = Expression(stored(tmp_path, values), np.ones(N_CELLS, bool))
    chosen, n_markers = found._choose([kinds], 0)
    # Taken in turns: the best of A, the best of B, and so on. `Unknown` is no label, so its markers come by variance.
    assert {chosen[0], chosen[2], chosen[4]} == set(MARKERS["A"]) and {chosen[1], chosen[3]} == set(MARKERS["B"])
    assert n_markers >= 5 and 39 not in chosen and len(set(chosen)) == len(chosen) == 39
    logged = log_normalized(values, values.sum(axis=1))
    alone, none = found._choose([], 0)
    assert none == 0 and list(alone) == list(np.argsort(-logged.var(axis=0), kind="stable")[:39])
    assert list(chosen[n_markers:]) == [gene for gene in alone if gene not in chosen[:n_markers]]
    assert set(MARKERS["Unknown"]) <= set(alone[:8])


def test_markers_are_ranked_by_welch_against_all_other_cells(counts):
    from scipy.stats import ttest_ind

    values, kinds = counts
    logged = sparse.csr_matrix(log_normalized(values, values.sum(axis=1)))
    labels = kinds.where(kinds != "Unknown", None)
    labels.iloc[:2] = "rare"
    a, b = rank_markers(logged, labels)
    for found, label in ((a, "A"), (b, "B")):
        inside = (labels == label).to_numpy()
        # Overestimated: the variance of the others counts as if there were as many as of the label.
        rest = logged.toarray()[(labels.notna() & (labels != label)).to_numpy()]
        mine = logged.toarray()[inside]
        spread = np.sqrt(mine.var(axis=0, ddof=1) / len(mine) + rest.var(axis=0, ddof=1) / len(mine))
        with np.errstate(invalid="ignore"):
            score = (mine.mean(axis=0) - rest.mean(axis=0)) / spread
        assert list(found) == [
            gene for gene in np.argsort(-np.nan_to_num(score), kind="stable") if np.nan_to_num(score)[gene] > 0
        ]
        assert ttest_ind(mine[:, found[0]], rest[:, found[0]], equal_var=False).pvalue < 1e-10
    assert rank_markers(logged, pd.Series("one", index=range(N_CELLS))) == []
    assert rank_markers(logged, pd.Series(None, index=range(N_CELLS), dtype=object)) == []


def test_taking_in_turns():
    assert take_in_turns([np.array([3, 1]), np.array([3, 5, 7]), np.array([], int)], 10) == [3, 1, 5, 7]
    assert take_in_turns([np.array([3, 1]), np.array([4])], 2) == [3, 4] and take_in_turns([], 5) == []


def test_rare_labels_keep_their_cells_among_those_that_choose(monkeypatch):
    monkeypatch.setattr(expression, "MOST_CELLS", 30)
    labels = pd.Series(["common"] * 1000 + ["rare"] * 8 + [None] * 500, dtype=object)
    rows = expression._draw_rows(labels, 0)
    assert len(rows) == len(set(rows)) == 30 and (np.diff(rows) > 0).all()
    counts = labels.iloc[rows].fillna("none").value_counts()
    assert counts["rare"] == 8 and counts["common"] == counts["none"] == 11


def test_nothing_varies_where_there_is_nothing(tmp_path):
    empty = Expression(stored(tmp_path, np.zeros((4, 3), np.float32)), np.ones(4, bool))
    assert empty.genes(np.arange(4), 0, [pd.Series(list("abab"))], "x.zarr", 0) is None


def levels(content, number, n):
    gene = content["genes"]["genes"][number]
    return gene["low"] + gene["step"] * np.frombuffer(unpack(gene["levels"]), np.uint8)[:n], gene


def test_what_the_page_holds_of_genes_is_off_by_half_a_level(tmp_path, counts):
    """Of cells drawn from the file, behind 50 of a reference which have none."""
    values, kinds = counts
    found = Expression(stored(tmp_path, values), np.ones(N_CELLS, bool))
    drawn = np.random.default_rng(1).permutation(N_CELLS)[:100]
    genes = found.genes(drawn, 50, [kinds], "results/query.zarr", 0)
    names = [*(f"r{i}" for i in range(50)), *(f"c{i}" for i in drawn)]
    table = pd.DataFrame({"which": ["r"] * 50 + ["q"] * 100}, index=names)
    path = tmp_path / "page.html"
    write(path, np.random.default_rng(0).normal(size=(150, 2)), table, datasets="which", background="r", genes=genes)
    content = content_of(path)
    held = content["genes"]
    assert np.unpackbits(np.frombuffer(unpack(held["measured"]), np.uint8))[:150].tolist() == [0] * 50 + [1] * 100
    assert [gene["name"] for gene in held["genes"]] == list(genes.names) and len(held["genes"]) == 39
    assert "results/query.zarr" in held["notes"][1] and "markers of the labels" in held["notes"][0]
    order = names_of(content)[50:]
    chosen = values[[int(name[1:]) for name in order]]
    expected = log_normalized(chosen, chosen.sum(axis=1))
    for number, name in enumerate(genes.names):
        seen, gene = levels(content, number, 100)
        true = expected[:, int(name[4:])]
        assert np.abs(seen - true).max() <= gene["step"] / 2 + 1e-6 and gene["high"] == pytest.approx(true.max())


def packed(n_cells, n_genes, values=None):
    rng = np.random.default_rng(0)
    order = rng.permutation(n_cells)
    matrix = rng.random((n_cells, n_genes)) if values is None else values
    asked = []

    def read(rows, n):
        asked.append((len(rows), n))
        return sparse.csr_matrix(matrix[rows, :n])

    genes = Genes([f"g{i}" for i in range(n_genes)], np.ones(n_cells, bool), read, "x")
    return packing.pack(genes, order), asked


def test_with_more_cells_there_are_fewer_genes(monkeypatch):
    monkeypatch.setattr(packing, "MOST_VALUES", 5_000)
    found, asked = packed(100, 80)
    assert asked == [(100, 50)] and [gene["name"] for gene in found["genes"]] == [f"g{i}" for i in range(50)]
    assert packed(10, 80)[1] == [(10, 80)] and packed(6_000, 80)[0] is None


def test_genes_take_no_more_room_than_they_may(monkeypatch):
    full = packed(200, 20)[0]["genes"]
    sizes = np.cumsum([len(gene["levels"]) for gene in full])
    monkeypatch.setattr(packing, "MOST_BYTES", int(sizes[6]))
    assert packed(200, 20)[0]["genes"] == full[:7]


def test_values_below_zero_and_values_that_are_all_alike():
    values = np.column_stack([np.linspace(-2, 3, 50), np.zeros(50), np.full(50, 4.0)])
    found, _ = packed(50, 3, values=values)
    order = np.random.default_rng(0).permutation(50)
    for number in range(3):
        seen, gene = levels({"genes": found}, number, 50)
        assert np.abs(seen - values[order, number]).max() <= gene["step"] / 2 + 1e-9
    assert [gene["low"] for gene in found["genes"]] == [-2, 0, 0]
