"""The pipeline's parameters: read from `nextflow_schema.json`, which alone says what there is and what the defaults are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from ..common.errors import RefmapError, nearest
from ..families import reference_options, trainable
from ..hierarchy import base_parameters

KINDS = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}


def load_schema(path: str | Path) -> dict:
    """Return the schema of `nextflow_schema.json`."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def groups(schema: dict) -> Iterator[dict]:
    """Yield the groups of parameters, in the schema's order."""
    for reference in schema["allOf"]:
        yield schema["$defs"][reference["$ref"].removeprefix("#/$defs/")]


def properties(schema: dict) -> dict[str, dict]:
    """Return each parameter's own schema by its name, in order."""
    return {name: spec for group in groups(schema) for name, spec in group["properties"].items()}


def defaults(schema: dict) -> dict[str, Any]:
    """Return each parameter's default; None where it has none."""
    return {name: spec.get("default") for name, spec in properties(schema).items()}


def check_parameters(given: dict[str, Any], schema: dict) -> None:
    """Check the parameters of a run, as Nextflow has them: with their defaults, and typed where the command line gave them.

    Raises
    ------
    RefmapError
        One line a fault: unknown parameters, values that a parameter cannot have, parameters that do not go together.
    """
    known = properties(schema)
    faults = [
        f"--{name}: there is no such parameter.{nearest(name, known)}"
        for name in given
        if name not in known and not _is_alias(name, given)
    ]
    faults += [
        f"--{name} is {json.dumps(given[name])}, but must be {must(spec)}."
        for name, spec in known.items()
        if name in given and not _is_valid(given[name], spec)
    ]
    faults += _contradictions(given)
    if faults:
        raise RefmapError("\n".join(faults))


def must(spec: dict) -> str:
    """Return what a parameter must be, in words."""
    if "enum" in spec:
        return "one of " + ", ".join(spec["enum"])
    words = KINDS[spec["type"]]
    if "minimum" in spec:
        words += f" from {spec['minimum']} to {spec['maximum']}" if "maximum" in spec else f" of {spec['minimum']} or more"
    return f"as its help says ({spec['description'].rstrip('.')})" if "pattern" in spec else words


def _is_valid(value: Any, spec: dict) -> bool:
    if value is None:
        return "default" not in spec
    if spec["type"] == "string" and isinstance(value, (int, float)) and not isinstance(value, bool):
        # Nextflow makes numbers of what looks like one on the command line: `--slurm_account 42`.
        value = str(value)
    return Draft202012Validator(spec).is_valid(value)


def _is_alias(name: str, given: dict[str, Any]) -> bool:
    """Tell whether a name only repeats another one's value in camelCase or with hyphens, as some versions of Nextflow do."""
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", lambda letter: "_" + letter[0].lower(), name).replace("-", "_")
    return snake != name and snake in given and str(given[snake]).lower() == str(given[name]).lower()


def _contradictions(given: dict[str, Any]) -> Iterator[str]:
    if given.get("demo"):
        for name, brought in (("input", "queries"), ("reference", "reference")):
            if given.get(name):
                yield f"--demo brings its own {brought} and cannot be combined with --{name}; give one of the two."
    if not (given.get("input") or given.get("demo") or given.get("reference")):
        yield "--input is missing: give a sheet, --demo for the bundled queries, or --reference to train a model only."
    if given.get("reference") or given.get("demo"):
        try:
            given = base_parameters(given)
        except RefmapError as error:
            yield from str(error).splitlines()
            return
        kind = trainable().get(given.get("family"))
        if kind is None:
            return  # said as a value that the parameter cannot have
        for needed in kind.needs:
            names = (needed,) if isinstance(needed, str) else needed
            if not any(given.get(name) for name in names):
                yield f"{' or '.join(f'--{name}' for name in names)} is missing: a {given['family']} reference cannot be trained without it."
        if given.get("reference_spatial_key") and not kind.spatial:
            yield (
                f"--reference_spatial_key means nothing to {given['family']}: leave it out, or train a family that is made of "
                f"partitions of a tissue ({', '.join(name for name, other in trainable().items() if other.spatial)})."
            )
        try:
            reference_options(given)
        except RefmapError as error:
            yield from str(error).splitlines()
