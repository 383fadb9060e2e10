#!/usr/bin/env python
"""Write the demo's reference, queries and datasets.yaml."""

from pathlib import Path

import click
from refmap.common.cli import command
from refmap.sheet.demo import make_demo


@command("MAKE_DEMO")
@click.option("--outdir", required=True, type=click.Path(path_type=Path), help="Folder to write to; made if absent.")
@click.option("--seed", default=0, help="Decides which cells are held out and which genes are missing.")
def main(outdir: Path, seed: int) -> None:
    """Write a reference of 401 PBMCs and three unlike queries of about 100 (from scanpy's pbmc68k_reduced) to OUTDIR."""
    print(make_demo(outdir, seed))


if __name__ == "__main__":
    main()
