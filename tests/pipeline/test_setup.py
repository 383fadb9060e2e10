"""`make setup`, and the environments' `build` and `activate`: on copies, with small environments made of one tiny package or none."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What is made with the environment `core`, each of packages of its own
TABLES = ("cell_ontology", "gene_names")


def shell(script, cwd=ROOT, **env):
    """Run a bash script; the environment variables given replace the caller's, None removes one."""
    merged = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    return subprocess.run(["bash", "-c", script], cwd=cwd, env=merged, text=True, capture_output=True, timeout=300)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of tools/ and containers/ in a folder with a space, whose environments, its own, hold no package."""
    monkeypatch.delenv("REFMAP_ENVS", raising=False)
    root = tmp_path / "a folder"
    for name in ("tools", "containers"):
        shutil.copytree(ROOT / name, root / name)
    for lock in root.glob("containers/*/*.lock"):
        lock.write_text("")
    for table in TABLES:
        (root / f"containers/core/{table}.lock").unlink()
    return root


@pytest.fixture
def named_tree(tree):
    """The same, whose environment `core` has tables, made of no package: each holds the folder that its script was called with."""
    for table in TABLES:
        (tree / f"containers/core/{table}.lock").write_text("")
        (tree / f"containers/core/{table}.py").write_text(
            "import pathlib, sys\npath = pathlib.Path(sys.argv[2])\npath.parent.mkdir(parents=True, exist_ok=True)\n"
            "path.write_text(sys.argv[1])\n"
        )
    return tree


@pytest.fixture
def offline(tmp_path):
    """A PATH on which `uv` stands in for the real one, and the file in which it writes down its calls."""
    calls = tmp_path / "calls"
    calls.touch()
    uv = tmp_path / "fake bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f"""#!{shutil.which("bash")}
        [[ $1 != --quiet ]] || shift
        case $1 in
            --version) echo uv 0 ;;
            venv) echo venv >>"{calls}"; mkdir -p "${{@: -1}}/bin"; ln -sf "{sys.executable}" "${{@: -1}}/bin/python" ;;
            pip) echo "pip $2" >>"{calls}"; sleep "${{UV_SECONDS:-0}}"; exit "${{UV_STATUS:-0}}" ;;
        esac
        """
    )
    uv.chmod(0o755)
    return {"PATH": f"{uv.parent}:/usr/local/bin:/usr/bin:/bin", "calls": calls}


def test_activate_puts_the_environment_first_on_path(tree, offline):
    ran = shell(
        "set -eu; . containers/activate core; which python; echo $MPLCONFIGDIR; echo ${PYTHONPATH-none}",
        cwd=tree,
        PATH=offline["PATH"],
        PYTHONPATH="/elsewhere",
        MPLCONFIGDIR=None,
        NUMBA_CACHE_DIR=None,
    )
    home = tree / ".tools/envs/core"
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"{home}/bin/python", f"{home}/cache/matplotlib", "none"]
    assert (home / "cache/numba").is_dir()


def test_activate_builds_once_and_again_when_the_lock_changes(tree, offline):
    activate = ". containers/activate core"
    for _ in range(2):
        assert shell(activate, cwd=tree, PATH=offline["PATH"]).returncode == 0
    assert offline["calls"].read_text().split("\n") == ["venv", "pip sync", ""]

    (tree / "containers/core/requirements.lock").write_text("# changed\n")
    assert shell(activate, cwd=tree, PATH=offline["PATH"]).returncode == 0
    assert offline["calls"].read_text().split("\n") == ["venv", "pip sync", "pip sync", ""]


def test_a_failed_build_is_not_taken_for_an_environment(tree, offline):
    broken = shell(". containers/activate core || echo status $?", cwd=tree, PATH=offline["PATH"], UV_STATUS="3")
    assert broken.stdout == "status 1\n"
    assert "the environment 'core' could not be built from" in broken.stderr
    assert not list((tree / ".tools/envs").glob("*.building")) and not list((tree / ".tools/envs").glob(".*.building"))
    assert shell(". containers/activate core", cwd=tree, PATH=offline["PATH"]).returncode == 0
    assert offline["calls"].read_text().count("pip sync") == 2


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_made_anew_alone_when_its_lock_or_its_script_changes(named_tree, offline, table):
    home = named_tree / ".tools/envs/core"
    made = {name: home / f"share/refmap/{name}.parquet" for name in TABLES}
    for _ in range(2):
        assert shell(". containers/activate core", cwd=named_tree, PATH=offline["PATH"]).returncode == 0
    assert offline["calls"].read_text().split("\n") == ["venv", "pip sync", *["pip install"] * len(TABLES), ""]
    assert {name: path.read_text() for name, path in made.items()} == {name: f"{home}/{name}.packages" for name in TABLES}
    for name in (f"{table}.lock", f"{table}.py"):
        offline["calls"].write_text("")
        for path in made.values():
            path.unlink(missing_ok=True)
        with open(named_tree / "containers/core" / name, "a") as stream:
            stream.write("# changed\n")
        for _ in range(2):
            assert shell(". containers/activate core", cwd=named_tree, PATH=offline["PATH"]).returncode == 0
        assert offline["calls"].read_text() == "pip install\n"
        assert [path.stem for path in made.values() if path.is_file()] == [table]


@pytest.mark.parametrize("table", TABLES)
def test_an_environment_without_one_of_its_tables_is_not_whole(named_tree, offline, table):
    (named_tree / f"containers/core/{table}.py").write_text("raise SystemExit('no such file')\n")
    ran = shell(". containers/activate core || echo status $?", cwd=named_tree, PATH=offline["PATH"])
    assert ran.stdout == "status 1\n"
    assert "no such file" in ran.stderr and f"the table '{table}' could not be made from" in ran.stderr
    assert not (named_tree / f".tools/envs/core/{table}.sha256").exists()


def test_an_unknown_environment_is_named(tree):
    ran = shell("set -u; . containers/activate skvi", cwd=tree)
    assert ran.returncode == 1
    assert ran.stderr == (f"refmap: there is no environment 'skvi': {tree}/containers/skvi/requirements.lock does not exist\n")


def test_activations_at_once_build_once(tree, offline):
    environment = {**os.environ, "PATH": offline["PATH"], "UV_SECONDS": "1.5"}
    running = [
        subprocess.Popen(
            ["bash", "-c", ". containers/activate core && which python"],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, outputs
    assert {out for out, _ in outputs} == {f"{tree}/.tools/envs/core/bin/python\n"}
    assert offline["calls"].read_text().split("\n") == ["venv", "pip sync", ""]
    assert sum("waiting for the environment 'core'" in err for _, err in outputs) == 3


@pytest.mark.parametrize("owner, age", [("here", 0), ("another-machine 1", 600), ("", 600)], ids=["dead", "silent", "nameless"])
def test_the_lock_of_a_dead_builder_is_taken_over(tree, offline, owner, age):
    guard = tree / ".tools/envs/.core.building"
    guard.mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    hostname = shell("echo $HOSTNAME").stdout.strip()
    (guard / "owner").write_text(f"{hostname} {dead.pid}\n" if owner == "here" else owner)
    os.utime(guard, (time.time() - age,) * 2)

    ran = shell(". containers/activate core", cwd=tree, PATH=offline["PATH"])
    assert ran.returncode == 0, ran.stderr
    assert "is gone: taking over" in ran.stderr
    assert not guard.exists()


def test_the_lock_of_a_living_builder_elsewhere_is_respected(tree, offline):
    guard = tree / ".tools/envs/.core.building"
    guard.mkdir(parents=True)
    (guard / "owner").write_text("another-machine 1\n")
    ran = shell("timeout 3 containers/build core", cwd=tree, PATH=offline["PATH"])
    assert ran.returncode == 124
    assert "waiting for the environment 'core'" in ran.stderr and "taking over" not in ran.stderr
    assert guard.exists() and offline["calls"].read_text() == ""


def test_environments_can_live_elsewhere(tree, offline, tmp_path):
    ran = shell(". containers/activate core; which python", cwd=tree, PATH=offline["PATH"], REFMAP_ENVS=str(tmp_path / "envs"))
    assert ran.stdout == f"{tmp_path}/envs/core/bin/python\n"
    assert not (tree / ".tools/envs").exists()


def test_an_environment_of_another_user_is_used_with_caches_elsewhere(tree, offline, tmp_path):
    assert shell("containers/build core", cwd=tree, PATH=offline["PATH"]).returncode == 0
    shutil.rmtree(tree / ".tools/envs/core/cache")
    ran = shell(
        ". containers/activate core; echo $NUMBA_CACHE_DIR",
        cwd=tree,
        PATH=offline["PATH"],
        TMPDIR=str(tmp_path),
        NUMBA_CACHE_DIR=None,
    )
    assert ran.stdout == f"{tmp_path}/refmap-{os.getuid()}/numba\n"


def test_a_ready_environment_is_not_built_again(tmp_path):
    """Every task pays for this: where the lock is the one that was built, the builder is not even started."""
    shutil.copytree(ROOT / "containers", tmp_path / "containers")
    (tmp_path / "containers/build").write_text("#!/bin/sh\nexit 9\n")
    envs = os.environ.get("REFMAP_ENVS", f"{ROOT}/.tools/envs")
    assert shell(". containers/activate core", cwd=tmp_path, REFMAP_ENVS=envs).returncode == 0
    for lock in ("requirements.lock", *(f"{table}.lock" for table in TABLES)):
        kept = (tmp_path / "containers/core" / lock).read_text()
        (tmp_path / "containers/core" / lock).write_text(f"{kept}# changed\n")
        assert shell(". containers/activate core", cwd=tmp_path, REFMAP_ENVS=envs).returncode != 0
        (tmp_path / "containers/core" / lock).write_text(kept)


def test_modules_are_compiled_whatever_the_caller_says():
    site = next((Path(sys.prefix) / "lib").glob("python*/site-packages"))
    assert list((site / "anndata/__pycache__").glob("*.pyc"))


def test_environments_agree_on_what_they_exchange():
    """Files pass between the environments, so what reads and writes them is of one version."""

    def pins(env):
        lines = (ROOT / "containers" / env / "requirements.lock").read_text().splitlines()
        return dict(line.split(" ")[0].split("==") for line in lines if "==" in line)

    core, scvi, scarches = pins("core"), pins("scvi"), pins("scarches")
    shared = ("anndata", "h5py", "numcodecs", "numpy", "pandas", "scanpy", "scipy", "zarr")
    assert {name: core[name] for name in shared} == {name: scvi[name] for name in shared}
    assert "torch" not in core and scvi["scvi-tools"] == "1.5.1"
    # The libraries of scArches stopped at this; it reads what the others write (zarr format 2, plain strings).
    assert (scarches["anndata"], scarches["zarr"], scarches["scarches"]) == ("0.10.8", "2.18.7", "0.6.1")


def test_images_are_built_by_the_same_uv():
    version = re.search(r"UV_VERSION=(\S+)", (ROOT / "containers/build").read_text()).group(1)
    for dockerfile in ROOT.glob("containers/*/Dockerfile"):
        assert re.findall(r"uv==(\S+)", dockerfile.read_text()) == [version]


def test_a_second_setup_does_nothing():
    """These tests run after `make setup`: what it made is left as it was, and nothing is said."""
    envs = Path(os.environ.get("REFMAP_ENVS", ROOT / ".tools/envs"))
    stamps = [envs / "core/lock.sha256", *(envs / f"core/{table}.sha256" for table in TABLES), envs / "scvi/lock.sha256"]
    before = [stamp.stat().st_mtime_ns for stamp in stamps]
    ran = shell("make --no-print-directory setup")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert [stamp.stat().st_mtime_ns for stamp in stamps] == before


def test_setup_takes_the_nextflow_on_path(tree, offline):
    nextflow = Path(offline["PATH"].split(":")[0]) / "nextflow"
    nextflow.write_text("#!/bin/sh\n")
    nextflow.chmod(0o755)
    ran = shell("tools/setup", cwd=tree, PATH=offline["PATH"])
    assert ran.returncode == 0, ran.stderr
    assert not (tree / ".tools/bin").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_not_root_says_what_to_install():
    """A PATH with the tools of the shell and no Java, Maven or uv; and a user who may not install them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own are closed to other users
        bin_folder = Path(folder, "bin")
        bin_folder.mkdir()
        for name in ("bash", "dirname", "env", "grep", "mkdir", "ps", "sed", "sha256sum", "tr", "apt-get"):
            (bin_folder / name).symlink_to(shutil.which(name, path="/usr/bin:/bin"))
        shutil.copytree(ROOT / "tools", Path(folder, "refmap/tools"))
        Path(folder).chmod(0o755)
        os.chown(Path(folder, "refmap"), 65534, 65534)
        ran = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
             "env", "-i", f"PATH={bin_folder}", "bash", f"{folder}/refmap/tools/setup"],
            text=True, capture_output=True, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "as root, run `apt-get install " in ran.stderr
    assert "jre-headless maven" in ran.stderr and "procps" not in ran.stderr
