"""Make the table of the Cell Ontology's names of a package that ships it:   python cell_ontology.py <folder with the package> <table.parquet>

Names and exact synonyms of the terms are those of the newest Cell Ontology that cellxgene-ontology-guide has. A row is a name of a
term: `term` (its id, such as CL:0000084), `name`, `kind` (name or synonym). Terms that are obsolete are left out. The version is the
table's attribute `version`.
"""

import json
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa


def newest(data: Path) -> str:
    """The version of the Cell Ontology in the newest schema that the package knows."""
    schemas = json.loads((data / "ontology_info.json").read_text())
    newest = max(schemas, key=lambda version: tuple(map(int, version.split("."))))
    return schemas[newest]["ontologies"]["CL"]["version"]


def table(folder: Path) -> pd.DataFrame:
    """The names of all terms, the name of each before its synonyms."""
    data = folder / "cellxgene_ontology_guide/data"
    version = newest(data)
    with pa.CompressedInputStream(str(data / f"CL-ontology-{version}.json.zst"), "zstd") as stream:
        terms = json.loads(stream.read())
    rows = []
    for term, of in sorted(terms.items()):
        if not of["deprecated"]:
            rows.append((term, of["label"], "name"))
            rows += [(term, synonym, "synonym") for synonym in sorted(set(of.get("synonyms", ())) - {of["label"]})]
    names = pd.DataFrame(rows, columns=["term", "name", "kind"])
    names.attrs["version"] = version
    return names


def main(folder: str, output: str) -> None:
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".part")
    table(Path(folder)).to_parquet(made, index=False, compression="zstd")
    made.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
