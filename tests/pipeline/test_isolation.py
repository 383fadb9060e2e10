"""What a run is started in changes none of its tasks: they have what they need of their machine, and what the pipeline gives them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from callers import JOBS, PYTHONS, SETTINGS, THREADS, other_python
from runs import ENVIRONMENT, ROOT

# What a task may need of its machine
OF_THE_MACHINE = {
    **{"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "all", "LD_LIBRARY_PATH": "/opt/driver", "TZ": "UTC"},
    **{"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "https_proxy": "http://proxy", "LC_NUMERIC": "C"},
    **{"MODULEPATH": "/opt/modules", "NXF_TASK_WORKDIR": "/work"},
    **{"HF_TOKEN": "secret", "ZENODO_TOKEN": "secret", "HF_ENDPOINT": "https://hub", "ZENODO_ENDPOINT": "https://zenodo"},
    **{"AWS_ENDPOINT_URL_S3": "https://s3", "SSL_CERT_FILE": "/certificates", "REQUESTS_CA_BUNDLE": "/certificates"},
}


def environment_of(script: str, **given: str) -> dict[str, str]:
    """What a bash that runs a script has in its environment in the end."""
    ran = subprocess.run(["bash", "-euc", f"{script}; env -0"], env={"PATH": os.environ["PATH"], "HOME": "/home/me"} | given,
                         cwd="/", text=True, capture_output=True, check=True)  # fmt: skip
    return dict(entry.split("=", 1) for entry in ran.stdout.split("\0") if entry)


def test_what_a_task_needs_of_its_machine_stays_and_all_else_goes():
    callers = JOBS | THREADS | PYTHONS | SETTINGS | {"OF_A_LIBRARY_TO_COME": "1", "BASH_ENV": "/dev/null"}
    kept = {name: callers.pop(name) for name in ("MPLCONFIGDIR", "NUMBA_CACHE_DIR")}  # by then they are the environment's own
    left = environment_of(f". '{ROOT}/containers/isolate'", **callers, **kept, **OF_THE_MACHINE)
    of_bash = {"PWD", "SHLVL", "_", "OLDPWD"}
    assert {name: value for name, value in left.items() if name not in of_bash} == {
        "PATH": os.environ["PATH"], "HOME": "/home/me", **kept, **OF_THE_MACHINE
    }  # fmt: skip


def test_the_environment_says_where_its_caches_are_and_not_the_caller():
    left = environment_of(f". '{ROOT}/containers/activate' core", REFMAP_ENVS=ENVIRONMENT["REFMAP_ENVS"], **SETTINGS)
    home = Path(ENVIRONMENT["REFMAP_ENVS"], "core").resolve()
    assert left["MPLCONFIGDIR"] == f"{home}/cache/matplotlib" and left["NUMBA_CACHE_DIR"] == f"{home}/cache/numba"


# A task of one CPU and one that wants more than there may be
PIPELINE = """
process ONE {
    script:
    "env -0 > environment"
}

process FETCH {
    label 'process_network'

    script:
    "env -0 > fetching"
}

process MANY {
    cpus 5

    script:
    "env -0 > environment; python -c 'import sys, click; print(sys.prefix)' > python"
}

workflow {
    ONE()
    FETCH()
    MANY()
}
"""


def test_a_task_has_as_many_threads_as_cpus_and_what_a_configuration_says(tmp_path):
    (tmp_path / "main.nf").write_text(PIPELINE)
    (tmp_path / "containers").symlink_to(ROOT / "containers")
    (tmp_path / "nextflow.config").write_text(
        f"includeConfig '{ROOT}/nextflow.config'\nenv.JAX_PLATFORMS = 'cpu'\nexecutor.cpus = 8\n"
    )
    environment = {**ENVIRONMENT, **JOBS, **THREADS, **SETTINGS, **other_python(tmp_path / "other"), "OF_A_LIBRARY_TO_COME": "1"}
    environment |= {"HF_TOKEN": "of the caller", "ZENODO_TOKEN": "of the caller"}
    ran = subprocess.run(["nextflow", "-q", "run", "main.nf", "--outdir", "out", "--max_cpus", "3"], env=environment,
                         cwd=tmp_path, text=True, capture_output=True, timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    tasks = [path.read_text() for path in tmp_path.glob("work/*/*/environment")]
    tasks = [dict(entry.split("=", 1) for entry in text.split("\0") if entry) for text in tasks]
    assert sorted(task["OMP_NUM_THREADS"] for task in tasks) == ["1", "3"]
    for task in tasks:
        assert task["NUMBA_NUM_THREADS"] == task["OMP_NUM_THREADS"] and task["JAX_PLATFORMS"] == "cpu"
        given = {
            "OMP_NUM_THREADS",
            "NUMBA_NUM_THREADS",
            "JAX_PLATFORMS",
            "PATH",
            "VIRTUAL_ENV",
            "MPLCONFIGDIR",
            "NUMBA_CACHE_DIR",
        }
        assert not {name for name in environment.keys() - ENVIRONMENT.keys() if name in task} - given
    # Who the caller is elsewhere is known to what is let out alone, and written nowhere
    (fetching,) = tmp_path.glob("work/*/*/fetching")
    assert "HF_TOKEN=of the caller" in fetching.read_text().split("\0")
    assert not any("of the caller" in value for task in tasks for value in task.values())
    written = [*tmp_path.glob("work/*/*/.command.*"), *tmp_path.glob("out/pipeline_info/*"), tmp_path / ".nextflow.log"]
    assert not [path for path in written if "of the caller" in path.read_text(errors="replace")]
    (python,) = tmp_path.glob("work/*/*/python")
    assert Path(python.read_text().strip()).resolve() == Path(ENVIRONMENT["REFMAP_ENVS"], "core").resolve()
