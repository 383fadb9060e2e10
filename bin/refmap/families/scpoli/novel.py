"""Names for unlabeled prototypes: how a user makes a label of cells that the reference does not know."""

from __future__ import annotations

from dataclasses import dataclass

from ...common.errors import RefmapError


@dataclass(frozen=True)
class NewCellType:
    """A label, the column that it belongs to, and the unlabeled prototypes of the model whose mean is its prototype."""

    name: str
    key: str
    prototypes: tuple[int, ...]


def read_new_cell_types(text: str | None, card: dict) -> list[NewCellType]:
    """Read `name:3+4|other@column:7`; without a column it is the model's main one.

    Raises
    ------
    RefmapError
        If it is written otherwise, the model has no such label column or prototype, or a name is a label already.
    """
    labels, n = card["labels"], card["unlabeled_prototypes"]
    if not text:
        return []
    if not labels:
        raise RefmapError("option 'new_cell_types' names prototypes, and the model was trained without labels.")
    types = [_read(part, list(labels)) for part in text.split("|")]
    taken = {label for known in labels.values() for label in known}
    for kind in types:
        if kind.key not in labels:
            raise RefmapError(f"option 'new_cell_types' has the label column '{kind.key}'; the model has {', '.join(labels)}.")
        if kind.name in taken:
            raise RefmapError(f"option 'new_cell_types' has '{kind.name}', which is a label already: take another name.")
        taken.add(kind.name)
    for kind in types:
        if missing := [number for number in kind.prototypes if number >= n]:
            has = f"prototypes 0 to {n - 1}" if n else "no unlabeled prototypes: map onto the result of a mapping that made some"
            raise RefmapError(
                f"option 'new_cell_types' gives prototype {missing[0]} the name '{kind.name}'; the model has {has}."
            )
    return types


def _read(part: str, keys: list[str]) -> NewCellType:
    left, _, numbers = part.rpartition(":")
    name, _, key = left.rpartition("@") if "@" in left else (left, "", keys[0])
    digits = [number.strip() for number in numbers.split("+")]
    if not name.strip() or not all(number.isdecimal() for number in digits):
        raise RefmapError(
            f"option 'new_cell_types' has '{part}': write a name, a colon and numbers of prototypes, such as "
            "'plasmablast:3+4', and | between several."
        )
    return NewCellType(name.strip(), key.strip(), tuple(dict.fromkeys(map(int, digits))))
