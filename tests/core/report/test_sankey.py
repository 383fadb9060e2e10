"""The Sankey diagram of true labels and those that cells got."""

import numpy as np
import pandas as pd
import pytest
from refmap.report.qc import confusion_table
from refmap.report.sankey import MOST_LABELS, OTHERS, _folded, columns_of, draw_sankey, ribbons

TRUTH = pd.Series(["A", "A", "A", "B", None], dtype=object)
PREDICTED = confusion_table(TRUTH, pd.Series(["A", "A", "B", "B", "A"], dtype=object))
TRANSFERRED = confusion_table(TRUTH, pd.Series(["Unknown", "A", "A", "C", "A"], dtype=object))


def test_true_labels_are_on_the_left_or_in_the_middle():
    alone = columns_of({"predicted": PREDICTED})
    assert list(alone) == ["true", "predicted"] and alone["true"].to_dict() == {"A": 3, "B": 1}
    both = columns_of({"predicted": PREDICTED, "transferred": TRANSFERRED})
    assert list(both) == ["predicted", "true", "transferred"]
    assert both["predicted"].to_dict() == {"A": 2, "B": 2}
    # A label that no cell got is shown all the same.
    assert both["transferred"].to_dict() == {"A": 2, "B": 0, "C": 1, "Unknown": 1}


def test_ribbons_fill_the_bars():
    true, got = (pd.Series({"A": 0, "B": 10}) for _ in range(2))
    assert ribbons(PREDICTED, true, got) == [("A", 0, 0, 2), ("A", 2, 10, 1), ("B", 10, 11, 1)]


def test_of_many_labels_those_of_fewest_cells_are_put_together():
    rng = np.random.default_rng(0)
    sizes = np.arange(1, MOST_LABELS + 6)
    truth = pd.Series(np.repeat([f"t{i}" for i in sizes], sizes), dtype=object)
    given = truth.where(rng.random(len(truth)) < 0.8, "Unknown")
    table = _folded(confusion_table(truth, given))
    assert len(table) == MOST_LABELS + 1 and table.index[-1] == OTHERS and list(table.columns[-2:]) == [OTHERS, "Unknown"]
    assert table.loc[OTHERS].sum() == 1 + 2 + 3 + 4 + 5 and table.to_numpy().sum() == len(truth)
    assert table.loc["t45", "t45"] == (given == "t45").sum()


@pytest.mark.parametrize("confusions", [{"predicted": PREDICTED}, {"predicted": PREDICTED, "transferred": TRANSFERRED}])
def test_it_is_drawn(tmp_path, confusions):
    from PIL import Image

    draw_sankey(confusions, "pbmc/d.1", tmp_path / "sankey")
    assert Image.open(tmp_path / "sankey.png").width == pytest.approx(330 * (len(confusions) + 1), abs=2)
    assert (tmp_path / "sankey.pdf").exists()
