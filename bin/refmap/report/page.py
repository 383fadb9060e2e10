"""The page over all mappings: sections of MultiQC's custom content, https://docs.seqera.io/multiqc/custom_content.

MultiQC puts text into the page as HTML, and so does Plotly for the names in its plots: whatever comes from a user goes
through `escape`. Data are given as a list of one where a dictionary would do, since MultiQC takes the keys of that for
paths, and keeps no more than the file's name of dataset/file_id.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

from ..common.cli import write_json
from .agreement import Agreement
from .outcomes import Outcome, software_versions
from .sections.agreement import agreement
from .sections.calibration import calibration, reliability
from .sections.evaluation import evaluation
from .sections.gallery import pictures
from .sections.groups import groups
from .sections.joint import joint as joint_atlases
from .sections.labels import accuracy, labels, separation
from .sections.mappings import genes, mappings
from .sections.training import training
from .sections.verdicts import failures, trust, warnings


def write_page(
    outcomes: list[Outcome],
    references: list[dict],
    joint: list[dict],
    agreed: list[Agreement],
    path: Path,
    config: Path,
    title: str,
) -> None:
    """Let MultiQC make the page, one HTML file with all that it needs in it; no network is asked for anything."""
    with tempfile.TemporaryDirectory() as folder:
        write_sections(outcomes, references, joint, agreed, Path(folder))
        command = [sys.executable, "-m", "multiqc", folder, "--module", "custom_content", "--config", str(config.resolve())]
        command += ["--title", escape(title), "--outdir", str(path.parent.resolve()), "--filename", path.name, "--force"]
        command += ["--no-data-dir", "--no-version-check", "--no-megaqc-upload", "--no-ansi", "--quiet"]
        # Its home and working directories may hold configurations of the user's own, which have no say here.
        alone = {**os.environ, "HOME": folder, "MULTIQC_CONFIG_PATH": str(config.resolve())}
        run = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    if run.returncode or not path.exists():
        raise RuntimeError(f"MultiQC failed with status {run.returncode}:\n{run.stdout}{run.stderr}")
    path.write_text(put_pictures_in(path.read_text("utf-8"), outcomes), "utf-8")


def put_pictures_in(page: str, outcomes: list[Outcome]) -> str:
    """Replace what `pictures` left open by the pictures: MultiQC would carry each twice, once as notes for chat services."""
    folders = {outcome.id: outcome.folder for outcome in outcomes}

    def picture(match: re.Match) -> str:
        data = base64.b64encode((folders[match[1]] / match[2]).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    return re.sub(r'src="picture:([\w.~-]+)/(\w+\.png)"', picture, page)


def write_sections(
    outcomes: list[Outcome], references: list[dict], joint: list[dict], agreed: list[Agreement], folder: Path
) -> None:
    """Write a JSON file a section that has something to show, and the versions of the software."""
    mapped = [outcome for outcome in outcomes if outcome.mapped]
    sections = {
        "failures": failures(outcomes),
        "trust": trust(mapped),
        "warnings": warnings(outcomes, references),
        "mappings": mappings(outcomes),
        "groups": groups(mapped),
        "joint": joint_atlases(joint),
        "calibration": calibration(mapped, references),
        "reliability": reliability(mapped, references),
        "separation": separation(mapped),
        "genes": genes(mapped),
        "training": training(mapped),
        "labels": labels(mapped),
        "accuracy": accuracy(mapped),
        "evaluation": evaluation(mapped),
        "agreement": agreement(agreed),
        "pictures": pictures(mapped),
    }
    for name, section in sections.items():
        if section is not None:
            write_json(folder / f"refmap_{name}_mqc.json", {"id": f"refmap_{name}", **section})
    versions = software_versions(mapped)
    if versions:
        # JSON is YAML.
        write_json(folder / "refmap_mqc_versions.yml", {escape(k): [escape(v) for v in vs] for k, vs in versions.items()})
