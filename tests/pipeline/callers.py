"""What a run may be started in: a job, an environment full of settings, another Python."""

from __future__ import annotations

from pathlib import Path

from runs import ENVIRONMENT

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


def other_python(folder: Path) -> dict[str, str]:
    """An active conda environment, and libraries of it and of the user: none of them works. They are written to a folder."""
    for name in ("conda/bin", "libraries", "user/lib"):
        (folder / name).mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / "conda/bin" / name).write_text("#!/bin/sh\necho 'another Python' >&2\nexit 1\n")
        (folder / "conda/bin" / name).chmod(0o755)
    for name in ("numpy", "torch", "scvi", "anndata", "click", "refmap", "json", "sitecustomize"):
        (folder / "libraries" / f"{name}.py").write_text("raise SystemExit('a library of another Python')\n")
    conda = str(folder / "conda")
    return PYTHONS | {
        "PATH": f"{conda}/bin:{ENVIRONMENT['PATH']}",
        **{"CONDA_PREFIX": conda, "VIRTUAL_ENV": conda, "PYTHONHOME": conda},
        **{"PYTHONPATH": str(folder / "libraries"), "PYTHONUSERBASE": str(folder / "user")},
    }
