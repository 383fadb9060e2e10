"""The images, and the demo in them: as a user who is not root, from a checkout that nobody may write to, without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from demo_runs import BY_THE_MODEL, QUICK, assert_same_results, onto_reference
from engine import UserRun, assert_ran_as_jobs
from refmap import __version__
from runs import ROOT

# What a task of an environment imports first of all
LIBRARIES = {
    "core": ("anndata", "matplotlib.pyplot", "multiqc", "pydantic", "scanpy", "sklearn", "umap", "zarr"),
    "scvi": ("anndata", "multigrate", "scvi", "torch", "zarr"),
    "scarches": ("anndata", "captum", "mvtcr", "scarches", "scatlasvae", "scHPL", "torch", "torch_geometric", "zarr"),
}

# Printed by each image, run as a user whom it does not know
FACTS = """
import importlib, json, os, re, subprocess, sys, tempfile
from importlib.metadata import distributions
from pathlib import Path
from sysconfig import get_path

def files(folder):
    return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())

numba = os.environ["NUMBA_CACHE_DIR"]
kept = files(numba)
for name in sys.argv[1:]:
    importlib.import_module(name)
torch = sys.modules.get("torch")
for cache in (numba, os.environ["MPLCONFIGDIR"]):
    os.makedirs(cache, exist_ok=True)
    tempfile.TemporaryFile(dir=cache).close()
print(json.dumps({
    "uid": os.getuid(),
    "networks": os.listdir("/sys/class/net"),
    "versions": {re.sub("[_.]", "-", package.name.lower()): package.version for package in distributions(path=[get_path("purelib")])},
    "cuda": torch and torch.version.cuda,
    "kept": len(kept),
    "compiled": sorted(set(files(numba)) - set(kept)),
    "ps": subprocess.run(["ps", "-o", "pid=", "-p", str(os.getpid())], text=True, capture_output=True).stdout.split(),
    "pid": str(os.getpid()),
}))
"""


def image_name(env: str) -> str:
    return f"refmap/{env}:{__version__}"


def locked(env: str) -> tuple[set[tuple[str, str]], set[str]]:
    """The packages of an environment's lock with their versions, and those that every machine has."""
    lines = re.findall(r"^([a-z0-9-]+)==([^ ]+) (.)", (ROOT / "containers" / env / "requirements.lock").read_text(), re.MULTILINE)
    return {(name, version) for name, version, _ in lines}, {name for name, _, then in lines if then != ";"}


@pytest.mark.parametrize("env", LIBRARIES)
def test_an_image_is_its_lock_and_runs_as_anyone(engine, env):
    run = ("docker", "run", "--rm", "--interactive", "--network", "none", "--user", "12345:12345")
    facts = json.loads(engine.call(*run, image_name(env), "python", "-", *LIBRARIES[env], input=FACTS))
    assert facts["uid"] == 12345
    assert facts["networks"] == ["lo"]
    versions, everywhere = locked(env)
    assert set(facts["versions"].items()) <= versions
    assert everywhere <= facts["versions"].keys()
    assert (facts["cuda"] is not None) == (env != "core")
    assert facts["ps"] == [facts["pid"]]
    assert facts["compiled"] == []  # what numba compiles when they are imported is in the image
    assert (facts["kept"] > 0) == (env != "scvi")


@pytest.mark.parametrize("env", LIBRARIES)
def test_an_image_is_not_run_as_root_unless_told(engine, env):
    assert engine.call("docker", "run", "--rm", "--network", "none", image_name(env), "whoami") == "refmap\n"


def assert_ran_in_containers(events: list[dict], run: UserRun) -> None:
    """Each task ran in the image of its environment, and no container had a network."""
    started = {event["Actor"]["ID"]: event["Actor"]["Attributes"]["image"] for event in events if event["Type"] == "container"}
    by_the_model = [name for name in run.scripts() if name.startswith(BY_THE_MODEL)]
    assert sorted(started.values()) == sorted(
        [image_name("scvi")] * len(by_the_model) + [image_name("core")] * (len(run.scripts()) - len(by_the_model))
    )
    joined = [event["Actor"]["Attributes"] for event in events if event["Type"] == "network"]
    assert {network["container"]: network["name"] for network in joined} == dict.fromkeys(started, "none")


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in folder.rglob("*")}


def test_the_demo_in_docker_gives_what_it_gives_locally(engine, user, checkout, in_docker, demo):
    assert user.call(["touch", f"{checkout}/main.nf"], engine.environment).returncode != 0
    run, events = in_docker
    assert_ran_in_containers(events, run)
    assert owners(run.folder / "work") | owners(run.out) == {user.uid}
    assert_same_results(run, demo)


def test_jobs_in_docker(engine, user, checkout, cluster, in_docker, public_data, demo, public):
    folder, before = public / "jobs_in_docker", len(cluster.ended())
    rows = onto_reference(folder, in_docker[0], public_data, "clinic/patient_1")
    environment = engine.environment | cluster.environment
    with engine.watched(public / "events_of_jobs") as events:
        run = UserRun(user, checkout, folder, "-profile", "test,slurm,docker", *rows, environment=environment, config=QUICK)
    assert run.status == 0, run.printed
    assert_ran_as_jobs(cluster.ended()[before:], run, user)
    assert_ran_in_containers(events, run)
    assert_same_results(run, demo, "clinic/patient_1")
