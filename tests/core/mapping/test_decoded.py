"""What a model expects of a query's cells: which are decoded, how they are kept, and the share of the encoder's signal."""

import numpy as np
import pytest
from refmap.families.base import Decoder
from refmap.mapping.decoded import DEPTH, MADE_UP, Decoded, carried, decode, hshare, joined, made_up_counts, spread


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


PROFILES = rng(1).dirichlet(np.full(40, 0.5), size=30).astype(np.float32)  # of 30 cells
WEIGHTS = rng(2).normal(size=(12, 40)).astype(np.float32)
DISPERSION = rng(3).uniform(0.5, 5, size=(2, 40)).astype(np.float32)  # of two batches


def decoder(**changes) -> Decoder:
    """One that expects PROFILES in a cell's own batch, and the same with one gene in the place of another in a reference's."""

    def expect(cells, batches):
        if batches is None:
            return PROFILES[cells], None
        return np.stack([np.roll(PROFILES[cell], batch) for cell, batch in zip(cells, batches)]), DISPERSION[batches]

    return Decoder(**({"decode": expect, "n_batches": 2, "weights": WEIGHTS} | changes))


def test_each_batch_gives_as_many_cells_as_any_other_or_all_that_it_has():
    batches = rng(4).permutation(np.repeat(["a", "b", "c"], [5, 100, 895]))
    rows = spread(batches, 105, rng())
    assert (np.diff(rows) > 0).all() and (rows.dtype, len(rows)) == (np.int64, 105)
    assert {name: int((batches[rows] == name).sum()) for name in "abc"} == {"a": 5, "b": 50, "c": 50}
    assert (spread(batches, 105, rng()) == rows).all() and (spread(batches, 105, rng(1)) != rows).any()
    assert (spread(batches, 5_000, rng()) == np.arange(1000)).all()
    assert len(spread(batches[:0], 10, rng())) == 0


def test_decoded_cells_keep_their_places_and_genes_the_query_lacks_are_left_out(monkeypatch):
    monkeypatch.setattr("refmap.mapping.decoded.ROWS", 7)  # of several blocks
    found = np.arange(40) % 4 != 0
    placed = np.arange(30) % 10 != 3
    of = decode(decoder(), found, np.zeros(30), placed, 0)
    assert (
        of.cells.tolist() == [cell for cell in range(30) if cell % 10 != 3]
        and of.genes.tolist() == np.flatnonzero(found).tolist()
    )
    assert of.proportions.dtype == np.float16
    np.testing.assert_allclose(of.proportions, 1e4 * PROFILES[np.ix_(of.cells, of.genes)], rtol=1e-3, atol=1e-6)


def test_a_model_of_many_genes_has_fewer_cells_decoded(monkeypatch):
    monkeypatch.setattr("refmap.mapping.decoded.MOST_VALUES", 400)
    of = decode(decoder(), np.ones(40, dtype=bool), np.repeat(["a", "b"], [3, 27]), None, 0)
    assert of.proportions.shape == (10, 40) and (of.cells < 3).sum() == 3


def test_the_file_holds_the_same(tmp_path):
    of = decode(decoder(), np.arange(40) > 10, np.zeros(30), None, 0)
    of.write(tmp_path / "decoded.npz")
    again = Decoded.read(tmp_path / "decoded.npz")
    for name in ("cells", "genes", "proportions"):
        held, read = getattr(of, name), getattr(again, name)
        assert held.dtype == read.dtype and (held == read).all()


def test_several_surgeries_are_one_in_the_querys_order(monkeypatch):
    found, cells = np.arange(40) > 10, rng(5).permutation(30)
    parts = [(np.sort(mine), decode(decoder(), found, np.zeros(30), None, 0)) for mine in (cells[:20], cells[20:])]
    parts = [(mine, Decoded(np.arange(len(mine)), of.genes, of.proportions[mine])) for mine, of in parts]
    whole = joined(parts, 0)
    assert whole.cells.tolist() == list(range(30)) and (whole.genes == np.flatnonzero(found)).all()
    assert (whole.proportions == decode(decoder(), found, np.zeros(30), None, 0).proportions).all()
    monkeypatch.setattr("refmap.mapping.decoded.MOST_CELLS", 12)
    some = joined(parts, 0)
    assert np.isin(some.cells, parts[0][0]).sum() == 6 and (some.proportions == whole.proportions[some.cells]).all()
    assert joined([*parts, (np.arange(3), None)], 0) is None


def test_the_signals_share_is_that_of_plain_sums():
    counts, found = rng(6).poisson(3, size=(50, 40)).astype(np.float32), np.arange(40) % 3 != 0
    whole, rest = np.zeros((50, 12)), np.zeros((50, 12))
    for cell in range(50):
        for unit in range(12):
            products = [float(WEIGHTS[unit, gene]) * np.log(1 + counts[cell, gene]) for gene in range(40)]
            whole[cell, unit] = sum(products)
            rest[cell, unit] = sum(product for product, there in zip(products, found) if there)
    whole, rest = whole - whole.mean(axis=0), rest - rest.mean(axis=0)
    wanted = 1 - ((whole - rest) ** 2).sum() / (whole**2).sum()
    assert 0.4 < wanted < 0.9 and carried(counts, found, decoder()) == pytest.approx(wanted, rel=1e-4)
    # What enters the layer is what the model says that does.
    assert carried(np.expm1(counts), found, decoder(enters=np.log1p)) == pytest.approx(
        carried(counts, found, decoder(enters=lambda values: values)), rel=1e-4
    )


def test_all_genes_carry_all_and_none_nothing():
    assert hshare(decoder(), np.arange(30), np.ones(40, dtype=bool), 0) == 1
    assert hshare(decoder(), np.arange(30), np.zeros(40, dtype=bool), 0) == 0
    half = hshare(decoder(), np.arange(30), np.arange(40) < 20, 0)
    assert 0.2 < half < 0.8 and half == hshare(decoder(), np.arange(30), np.arange(40) < 20, 0)
    assert half == pytest.approx(hshare(decoder(), np.arange(30), np.arange(40) < 20, 1), abs=0.05)
    # Genes that the first layer does not look at carry nothing.
    blind = WEIGHTS * (np.arange(40) < 20)
    assert hshare(decoder(weights=blind), np.arange(30), np.arange(40) < 20, 0) == 1


def test_the_share_is_not_known_without_a_first_layer_or_cells():
    everything = np.ones(40, dtype=bool)
    assert hshare(decoder(weights=None), np.arange(30), everything, 0) is None
    assert hshare(decoder(), np.arange(0), everything, 0) is None
    assert hshare(decoder(weights=0 * WEIGHTS), np.arange(30), everything, 0) is None


def test_cells_are_made_up_in_the_references_batches():
    asked = []

    def expect(cells, batches):
        asked.append((cells, batches))
        return PROFILES[cells], None

    hshare(decoder(decode=expect, n_batches=3), np.array([4, 9]), np.ones(40, dtype=bool), 0)
    cells, batches = (np.concatenate(given) for given in zip(*asked))
    assert len(cells) == len(batches) == MADE_UP and set(cells) == {4, 9} and set(batches) == {0, 1, 2}


def test_made_up_counts_have_the_mean_and_the_variance_of_a_negative_binomial():
    shares, shape = np.tile(PROFILES[:1], (20_000, 1)), DISPERSION[:1]
    counts = made_up_counts(shares, shape, rng())
    mean = PROFILES[0] * DEPTH
    np.testing.assert_allclose(counts.mean(axis=0), mean, rtol=0.06, atol=0.3)
    many = mean > 20
    np.testing.assert_allclose(counts.var(axis=0)[many], (mean + mean**2 / shape[0])[many], rtol=0.15)
    np.testing.assert_allclose(made_up_counts(shares, None, rng()).var(axis=0)[many], mean[many], rtol=0.1)
    assert np.isfinite(made_up_counts(shares[:5], np.array([[0.0] * 20 + [np.inf] * 20], dtype=np.float32), rng())).all()
