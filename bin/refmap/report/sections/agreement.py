"""The labels that one query's cells got from several references, or of several columns of one, against each other."""

from __future__ import annotations

from html import escape

from ..agreement import Agreement
from .html import folded, many

# What a page can show; the rest is in the table beside the index.
MOST_PAIRS, MOST_LABELS = 20, 40


def agreement(found: list[Agreement]) -> dict | None:
    """Show, of each two columns of labels, how many cells have which two labels."""
    if not found:
        return None
    shown = sorted(found, key=lambda one: (one.query, one.first, one.second))[:MOST_PAIRS]
    more = f"<p>and {many(len(found) - len(shown), 'more pair')} of columns</p>" if len(found) > len(shown) else ""
    return {
        "section_name": "Agreement of labels",
        "description": "Cells of a query that was mapped onto several references, or onto one of several label columns: a row is a label "
        "of the first, a column one of the second, and the colour is the share of the row. Of the model's own labels where it predicts, else of "
        "the transferred ones. The number beside each pair is their normalised mutual information: 1 where each label tells the "
        "other, 0 where neither does. All of it is in reference_mapping/label_agreement.csv.",
        "plot_type": "html",
        "data": "".join(map(_table, shown)) + more,
    }


def _table(one: Agreement) -> str:
    information = "" if one.information is None else f" &middot; {one.information:.2f}"
    title = f"<h4>{escape(one.query)}{information}</h4><p>rows: {_column(one.first)}<br>columns: {_column(one.second)}</p>"
    # Labels of most cells first, where not all of them are shown.
    counts = one.counts
    rows = sorted(counts.sum(axis=1).nlargest(MOST_LABELS).index)
    columns = sorted(counts.sum(axis=0).nlargest(MOST_LABELS).index)
    head = "".join(f"<th>{escape(label)}</th>" for label in columns)
    body = ""
    for label in rows:
        shares = counts.loc[label, columns] / counts.loc[label].sum()
        cells = "".join(
            f'<td style="text-align: right; background: rgba(8, 81, 156, {share / 2:.2f})">{n or ""}</td>'
            for n, share in zip(counts.loc[label, columns], shares)
        )
        body += f"<tr><th>{escape(label)}</th>{cells}</tr>"
    table = f'<div style="overflow-x: auto"><table class="table table-condensed"><tr><th></th>{head}</tr>{body}</table></div>'
    return title + folded(table, len(rows), "label")


def _column(column: tuple[str, str]) -> str:
    mapping, name = column
    return f"{escape(mapping)}, {escape(name)}"
