#!/usr/bin/env python
"""Write conf/params.config, docs/parameters.md and assets/schema_input.json from nextflow_schema.json and the sheet's model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bin"))

from refmap.families import FAMILIES  # noqa: E402
from refmap.families.options import Option  # noqa: E402
from refmap.sheet.fields import FIELDS, YAML_ONLY, Mapping  # noqa: E402
from refmap.sheet.parameters import groups, load_schema  # noqa: E402


def groovy(value: Any) -> str:
    """Return a value as a literal of Nextflow's configuration."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)


def config_text(schema: dict) -> str:
    """Return conf/params.config."""
    width = max(len(name) for group in groups(schema) for name in group["properties"])
    lines = ["// Written by tools/write_params.py from nextflow_schema.json: change that, and run it", "params {"]
    for number, group in enumerate(groups(schema)):
        lines += [""] * (number > 0) + [f"    // {group['title']}"]
        lines += [f"    {name:<{width}} = {groovy(spec.get('default'))}" for name, spec in group["properties"].items()]
    return "\n".join([*lines, "}"]) + "\n"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]


def default_text(value: Any) -> str:
    return "" if value is None else f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def parameter_row(name: str, spec: dict) -> list[str]:
    choices = " One of " + ", ".join(f"`{choice}`" for choice in spec["enum"]) + "." if "enum" in spec else ""
    return [f"`--{name}`", spec["type"], default_text(spec.get("default")), spec["description"] + choices]


def column_row(name: str) -> list[str]:
    field = FIELDS[name]
    where = "YAML" if name in YAML_ONLY else "CSV, YAML"
    default = "**required**" if field.is_required() else default_text(field.default) if field.default not in ([], {}) else ""
    return [f"`{name}`", where, default, field.description]


def option_row(whose: str, name: str, option: Option) -> list[str]:
    kind = "one of " + ", ".join(f"`{choice}`" for choice in option.choices) if option.choices else option.kind
    return [whose, f"`{name}`", kind, default_text(option.default), option.about]


def options_text() -> list[str]:
    """Return the section on what single families can do."""
    head = ["family", "option", "type", "default", "what it is"]
    mapping = [option_row(family.name, *option) for family in FAMILIES for option in family.options.items()]
    training = [
        option_row(f"`{name}`", *option)
        for family in FAMILIES
        for name, kind in family.trains.items()
        for option in kind.options.items()
    ]
    return [
        "",
        "## Options of the families",
        "",
        "What a row of the sheet may set in `options`:",
        "",
        *table(head, mapping),
        "",
        "What `--reference_options` may set:",
        "",
        *table(head, training),
    ]


def docs_text(schema: dict) -> str:
    """Return docs/parameters.md."""
    lines = [
        "# Parameters",
        "",
        "<!-- Written by tools/write_params.py from nextflow_schema.json, bin/refmap/sheet/fields.py and bin/refmap/families -->",
        "",
        "Given as `--max_epochs 50`, or in a file: `-params-file params.yaml`. Where no default stands there is none.",
    ]
    for group in groups(schema):
        lines += ["", f"## {group['title']}", "", group["description"], ""]
        lines += table(
            ["parameter", "type", "default", "what it is"],
            [parameter_row(name, spec) for name, spec in group["properties"].items()],
        )
    lines += [
        "",
        "## The sheet",
        "",
        "The columns of the CSV, in any order (several names in a cell are parted by `;`), which are also keys of the YAML.",
        "",
        *table(["name", "in", "default", "what it is"], [column_row(name) for name in FIELDS]),
        *options_text(),
    ]
    return "\n".join(lines) + "\n"


def cell_schema(spec: dict) -> dict:
    """Return what a cell of the CSV must be for a field of the sheet's model: lists and mappings are text there."""
    kinds = [kind for kind in spec.get("anyOf", [spec]) if kind.get("type") != "null"]
    described = {"description": spec["description"]}
    if len(kinds) > 1 or kinds[0].get("type") in (None, "array", "object"):
        return {"type": "string", **described}
    # pydantic leaves the limits of what may be none under its own names
    limits = {json_name: spec[name] for name, json_name in {"ge": "minimum", "le": "maximum"}.items() if name in spec}
    kind = {key: kinds[0][key] for key in ("type", "enum") if key in kinds[0]}
    return kind | limits | described


def sheet_text() -> str:
    """Return assets/schema_input.json, by which launch forms and nf-schema read the CSV."""
    model = Mapping.model_json_schema()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The sheet of refmap",
        "description": "The columns of the CSV that --input names. Written by tools/write_params.py from bin/refmap/sheet/fields.py.",
        "type": "array",
        "items": {
            "type": "object",
            "properties": {name: cell_schema(model["properties"][name]) for name in FIELDS if name not in YAML_ONLY},
            "required": [name for name in model["required"] if name not in YAML_ONLY],
            "additionalProperties": False,
        },
    }
    return json.dumps(schema, indent=4) + "\n"


def files(root: Path = ROOT) -> dict[Path, str]:
    """Return the files that are written, and what into them."""
    schema = load_schema(root / "nextflow_schema.json")
    return {
        root / "conf/params.config": config_text(schema),
        root / "docs/parameters.md": docs_text(schema),
        root / "assets/schema_input.json": sheet_text(),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
