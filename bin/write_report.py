#!/usr/bin/env python
"""Write the page and the index over all mappings of a run."""

from pathlib import Path

import click
from refmap.common.cli import INPUT, OUTPUT, command, read_json
from refmap.report.outcomes import gather, read_joint, read_references
from refmap.report.report import write_report

FOLDER = click.Path(path_type=Path)


@command("REPORT")
@click.option("--mappings", required=True, type=INPUT, help="All mappings of the run, one JSON line each.")
@click.option("--plans", required=True, type=FOLDER, help="Folder of plans (JSON); may be absent.")
@click.option("--cards", required=True, type=FOLDER, help="Folder of model cards (JSON); may be absent.")
@click.option("--faults", required=True, type=FOLDER, help="Folder of faults (JSON); may be absent.")
@click.option("--qc", required=True, type=FOLDER, help="Folder of the mappings' QC folders, named by their ids; may be absent.")
@click.option("--references", required=True, type=FOLDER, help="Folder of the references' records (JSON); may be absent.")
@click.option("--joint", required=True, type=FOLDER, help="Folder of what is in the joint atlases (JSON); may be absent.")
@click.option(
    "--passed", required=True, type=INPUT, help="Each stage that a mapping finished: JSON, pairs of its id and the stage's name."
)
@click.option("--config", required=True, type=INPUT, help="MultiQC's configuration.")
@click.option("--title", default="refmap", help="Heading of the page.")
@click.option("--outdir", default="the run's outdir", help="Where the run writes to, as the summary says it.")
@click.option("--output", required=True, type=OUTPUT, help="Folder to make.")
def main(
    mappings: Path,
    plans: Path,
    cards: Path,
    faults: Path,
    qc: Path,
    references: Path,
    joint: Path,
    passed: Path,
    config: Path,
    title: str,
    outdir: str,
    output: Path,
) -> None:
    """Write multiqc_report.html, mappings.csv, summary.txt and failed.txt (how many failed) to a folder."""
    outcomes = gather(mappings, plans, cards, faults, qc, read_json(passed))
    write_report(outcomes, read_references(references), read_joint(joint), output, config, title, outdir)


if __name__ == "__main__":
    main()
