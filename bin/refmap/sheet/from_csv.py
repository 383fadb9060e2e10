"""The mappings of a CSV sheet, one a row."""

from __future__ import annotations

import csv
import io
from typing import Any

from ..common.errors import RefmapError, nearest
from .entries import Entry, Fault, plain, show
from .fields import COLUMNS, FIELDS, LISTS, required


def read_csv(text: str, name: str, reference: bool, faults: list[Fault]) -> list[Entry]:
    """Read a sheet whose first line names the columns; they are parted by tabs if it holds any, else by commas."""
    first_line = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in first_line else ",", strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise RefmapError(f"{name}: row {reader.line_num} cannot be read as CSV ({error}); check its quotes.") from None
    if not rows:
        raise RefmapError(f"{name}: is empty; its first line names the columns, each other line is a mapping.")
    header = rows[0][1]
    absent = _check_header(header, name, reference, faults)
    return [_csv_entry(number, header, cells, absent, faults) for number, cells in rows[1:]]


def _check_header(header: list[str], name: str, reference: bool, faults: list[Fault]) -> frozenset[str]:
    """Add the faults of the column names to `faults`; return the required columns that are absent."""
    if len(header) == 1 and ";" in header[0]:
        raise RefmapError(f"{name}: its columns are parted by ';'; save the sheet with commas or tabs.")
    for column in dict.fromkeys(header):
        if column not in COLUMNS:
            faults.append(Fault(f"unknown column {show(column)}.{nearest(column, COLUMNS)}", name))
        elif header.count(column) > 1:
            faults.append(Fault(f"column '{column}' appears {header.count(column)} times; keep one.", name))
    absent = [column for column in required(reference, header) if column not in header]
    faults += [Fault(f"column '{column}' is missing. {FIELDS[column].description}", name) for column in absent]
    return frozenset(absent)


def _csv_entry(number: int, header: list[str], cells: list[str], absent: frozenset[str], faults: list[Fault]) -> Entry:
    values: dict[str, Any] = {column: cell for column, cell in zip(header, cells) if cell and column in COLUMNS}
    for column in LISTS:
        if column in values:
            values[column] = [part.strip() for part in values[column].split(";") if part.strip()]
    where = f"row {number} ({plain(values.get('dataset', '?'))}/{plain(values.get('file_id', '?'))})"
    entry = Entry(where, values, {column: f"column '{column}'" for column in COLUMNS}, absent=absent)
    if len(cells) > len(header):
        sentence = f"has {len(cells)} cells, but the header has {len(header)}; put a cell that holds a comma in quotes."
        faults.append(entry.fault(sentence))
    return entry
