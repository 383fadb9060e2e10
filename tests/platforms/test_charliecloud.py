"""Mappings in Charliecloud, which needs no root and no daemon, as jobs of a cluster."""

from __future__ import annotations

import shutil

from demo_runs import BY_THE_MODEL, QUICK, assert_same_results, onto_reference
from engine import UserRun, assert_ran_as_jobs
from refmap import __version__


def test_jobs_in_charliecloud(images, user, checkout, cluster, in_docker, public_data, demo, public):
    assert shutil.which("ch-run"), "this machine lacks ch-run: as root, run `apt-get install charliecloud`"
    folder, before = public / "jobs_in_charliecloud", len(cluster.ended())
    rows = onto_reference(folder, in_docker[0], public_data, "clinic/patient_1")
    environment = cluster.environment | {"NXF_CHARLIECLOUD_CACHEDIR": str(images)}
    run = UserRun(user, checkout, folder, "-profile", "test,slurm,charliecloud", *rows, environment=environment, config=QUICK)
    assert run.status == 0, run.printed
    assert_ran_as_jobs(cluster.ended()[before:], run, user)
    for name, script in run.scripts().items():
        env = "scvi" if name.startswith(BY_THE_MODEL) else "core"
        (command,) = (line for line in script.splitlines() if line.strip().startswith("ch-run"))
        assert f" {images}/img/refmap%{env}+{__version__} -- " in command
    assert_same_results(run, demo, "clinic/patient_1")
