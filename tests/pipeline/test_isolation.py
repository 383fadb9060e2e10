"""What a run is started in changes none of its tasks: they have what they need of their machine, and what the pipeline gives them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from runs import ENVIRONMENT, ROOT, Run

# What a caller may have in its environment that would change numbers, pictures, or whether a task starts at all
JOBS = {  # of a cluster, whose tasks Lightning joins
    **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "map", "SLURM_NTASKS": "8", "SLURM_CPUS_PER_TASK": "1", "SLURM_NNODES": "1"},
    **{"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0", "SLURM_NODELIST": "n[1-2]"},
    **{"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/nowhere", "JSM_NAMESPACE_SIZE": "8", "JSM_NAMESPACE_RANK": "3"},
    **{"OMPI_COMM_WORLD_SIZE": "8", "PMI_RANK": "3", "KUBERNETES_PORT": "tcp://10.0.0.1", "TORCHELASTIC_RUN_ID": "none"},
    **{"RANK": "3", "LOCAL_RANK": "3", "GROUP_RANK": "0", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
THREADS = {
    **{"OMP_NUM_THREADS": "64", "OMP_PROC_BIND": "true", "KMP_AFFINITY": "compact", "MKL_NUM_THREADS": "1", "MKL_CBWR": "SSE4_2"},
    **{"OPENBLAS_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
}
SETTINGS = {
    **{"MPLBACKEND": "module://nothing", "MATPLOTLIBRC": "/nowhere", "MPLCONFIGDIR": "/proc/nowhere", "DISPLAY": ":7"},
    **{"NUMBA_DISABLE_JIT": "1", "NUMBA_CACHE_DIR": "/proc/nowhere", "JAX_PLATFORMS": "nothing", "JAX_ENABLE_X64": "1"},
    **{"XLA_FLAGS": "--nothing", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "SCIPY_ARRAY_API": "1"},
    **{"TORCH_DEFAULT_DTYPE": "float64", "NVIDIA_TF32_OVERRIDE": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
}
PYTHONS = {
    **{"PYTHONSTARTUP": "/nowhere", "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error", "PYTHONHASHSEED": "1"},
    **{"CONDA_DEFAULT_ENV": "other", "CONDA_SHLVL": "1", "PYTHONNOUSERSITE": ""},
}
# What a task may need of its machine
OF_THE_MACHINE = {
    **{"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "all", "LD_LIBRARY_PATH": "/opt/driver", "TZ": "UTC"},
    **{"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_L2_SIZE": "512", "https_proxy": "http://proxy", "LC_NUMERIC": "C"},
    **{"MODULEPATH": "/opt/modules", "NXF_TASK_WORKDIR": "/work"},
    **{"HF_TOKEN": "secret", "ZENODO_TOKEN": "secret", "HF_ENDPOINT": "https://hub", "ZENODO_ENDPOINT": "https://zenodo"},
    **{"AWS_ENDPOINT_URL_S3": "https://s3", "SSL_CERT_FILE": "/certificates", "REQUESTS_CA_BUNDLE": "/certificates"},
}


@pytest.fixture
def other_python(tmp_path) -> dict[str, str]:
    """An active conda environment, and libraries of it and of the user: none of them works."""
    for folder in ("conda/bin", "libraries", "user/lib"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("python", "python3"):
        (tmp_path / "conda/bin" / name).write_text("#!/bin/sh\necho 'another Python' >&2\nexit 1\n")
        (tmp_path / "conda/bin" / name).chmod(0o755)
    for name in ("numpy", "torch", "scvi", "anndata", "click", "refmap", "json", "sitecustomize"):
        (tmp_path / "libraries" / f"{name}.py").write_text("raise SystemExit('a library of another Python')\n")
    conda = str(tmp_path / "conda")
    return PYTHONS | {
        "PATH": f"{conda}/bin:{ENVIRONMENT['PATH']}",
        **{"CONDA_PREFIX": conda, "VIRTUAL_ENV": conda, "PYTHONHOME": conda},
        **{"PYTHONPATH": str(tmp_path / "libraries"), "PYTHONUSERBASE": str(tmp_path / "user")},
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


def test_a_task_has_as_many_threads_as_cpus_and_what_a_configuration_says(tmp_path, other_python):
    (tmp_path / "main.nf").write_text(PIPELINE)
    (tmp_path / "containers").symlink_to(ROOT / "containers")
    (tmp_path / "nextflow.config").write_text(
        f"includeConfig '{ROOT}/nextflow.config'\nenv.JAX_PLATFORMS = 'cpu'\nexecutor.cpus = 8\n"
    )
    environment = {**ENVIRONMENT, **JOBS, **THREADS, **SETTINGS, **other_python, "OF_A_LIBRARY_TO_COME": "1"}
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


def test_a_run_within_a_job_and_another_python_gives_the_same_to_the_last_digit(demo, tmp_path, other_python):
    run = Run(tmp_path / "run", "-profile", "test", environment=JOBS | THREADS | SETTINGS | other_python)
    assert run.status == 0, run.printed
    measured = {"seconds"}
    for name, row in demo.index().items():
        ours = run.index()[name]
        assert {key: ours[key] for key in row.keys() - measured} == {key: row[key] for key in row.keys() - measured}
        path = "reference_mapping/dataset~{}/file_id~{}.zarr".format(*name.split("/"))
        ours, theirs = (ad.read_zarr(one.out / path) for one in (run, demo))
        assert ours.obsm.keys() == theirs.obsm.keys() and "X_emb" in ours.obsm
        for key in ours.obsm:
            np.testing.assert_array_equal(ours.obsm[key], theirs.obsm[key], err_msg=f"{name}: {key}")
        assert ours.obs.equals(theirs.obs)
