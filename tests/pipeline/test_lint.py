"""What Nextflow's own linter, the strict parser of 26.04, says of the scripts and the configuration, where the Nextflow on PATH has it."""

import subprocess

import pytest
from runs import ENVIRONMENT, ROOT

LINTED = ["main.nf", "subworkflows", "modules", "tests/upstream.nf", "nextflow.config", "conf"]


def test_nextflow_finds_nothing_wrong():
    ran = subprocess.run(["nextflow", "lint", *LINTED], cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True, timeout=600)
    printed = ran.stdout + ran.stderr
    if "got lint" in printed:
        pytest.skip("this Nextflow has no linter (25.04 and newer have)")
    assert ran.returncode == 0, printed
    assert "had no errors" in printed
