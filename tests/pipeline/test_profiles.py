"""The profiles: each parses, GPUs are asked for by what runs a model alone, and what SLURM and the container engines are told is right.

The engines and SLURM are stand-ins on PATH: what counts here is what Nextflow writes for them.
"""

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("docker", "podman", "singularity", "apptainer", "charliecloud")
PLATFORMS = ("slurm", "awsbatch", "googlebatch", "azurebatch", "k8s")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{os.environ['PATH']}:{ROOT}/.tools/bin",
    "NXF_OPTS": "-XX:TieredStopAtLevel=1",  # these runs last seconds: compiling less starts them sooner
}

# One task of training and one of any other kind, as the pipeline has them
PIPELINE = """
process TRAIN {
    label 'process_gpu'
    ext env: 'scvi'

    script:
    "true"
}

process OTHER {
    script:
    "true"
}

workflow {
    TRAIN()
    OTHER()
}
"""


@cache
def config(profile):
    """The pipeline's settings under a profile, by their full name: {'docker.enabled': 'true', …}."""
    ran = subprocess.run(["nextflow", "config", str(ROOT), "-flat", "-profile", profile],
                         env=ENVIRONMENT, cwd="/", text=True, capture_output=True, timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARN" not in ran.stdout + ran.stderr
    return dict(re.findall(r"^([a-z]\S*) = (.*(?:\n(?![a-z]\S* = ).*)*)", ran.stdout, flags=re.MULTILINE))


@pytest.fixture
def run(tmp_path):
    """Run the two tasks under a profile of the pipeline; the script that Nextflow wrote for each of them."""

    def run_profile(profile, *arguments, stand_ins):
        for name, script in stand_ins.items():
            tool = tmp_path / "bin" / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(f"#!/bin/bash\n{script}\n")
            tool.chmod(0o755)
        (tmp_path / "main.nf").write_text(PIPELINE)
        (tmp_path / "containers").symlink_to(ROOT / "containers")
        (tmp_path / "nextflow.config").write_text(
            f"includeConfig '{ROOT}/nextflow.config'\nexecutor {{ pollInterval = '300 ms'; queueStatInterval = '1 sec' }}\n"
        )
        ran = subprocess.run(
            ["nextflow", "-q", "run", "main.nf", "-profile", profile, "--outdir", "out", *arguments],
            env={**ENVIRONMENT, "PATH": f"{tmp_path}/bin:{ENVIRONMENT['PATH']}", "USER": "root"},
            cwd=tmp_path, text=True, capture_output=True, timeout=120,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        scripts = [path.read_text() for path in tmp_path.glob("work/*/*/.command.run")]
        return {re.search(r"### name: '(\w+)'", script).group(1): script for script in scripts}

    return run_profile


@pytest.mark.parametrize("profile", ("local", *ENGINES, *PLATFORMS, "test", "test_full"))
def test_profile_parses_and_asks_for_no_gpu(profile):
    settings = config(profile)
    assert settings["params.gpu"] == "false"
    assert not [name for name in settings if name.endswith("accelerator")]


@pytest.mark.parametrize("profile", ENGINES)
def test_a_container_profile_turns_on_its_engine_alone(profile):
    settings = config(profile)
    assert [name for name in settings if name.endswith(".enabled") and name.split(".")[0] in ENGINES] == [f"{profile}.enabled"]
    assert settings[f"{profile}.enabled"] == "true"


@pytest.mark.parametrize("profile", (*ENGINES, "awsbatch", "googlebatch", "azurebatch", "k8s"))
def test_containers_do_not_look_for_the_environments_of_this_machine(profile):
    assert config(profile)["process.beforeScript"] == "''"
    assert "containers/activate" in config("local")["process.beforeScript"]


@pytest.mark.parametrize("profile, executor", [*zip(PLATFORMS, ("slurm", "awsbatch", "google-batch", "azurebatch", "k8s"))])
def test_a_platform_names_its_executor(profile, executor):
    assert config(profile)["process.executor"] == f"'{executor}'"


@pytest.mark.parametrize("profile", ("gpu", "slurm,gpu"))
def test_gpu_hangs_on_training_alone_and_keeps_its_memory(profile):
    settings, plain = config(profile), config("local")
    training = "process.'withLabel:process_gpu'."
    assert settings["params.gpu"] == "true"
    assert [name for name in settings if name.endswith("accelerator")] == [training + "accelerator"]
    surgery = "process.'withName:TRAIN_SURGERY'."
    for resource in (training + "cpus", surgery + "memory", surgery + "time"):
        assert settings[resource] == plain[resource]


# A scheduler that runs a job at once, and has none left when asked
SCHEDULER = {"sbatch": 'bash "$1" >/dev/null 2>&1 &\necho "Submitted batch job $$"', "squeue": "", "scancel": ""}


def test_slurm_options(run):
    tasks = run("slurm,gpu", "--slurm_queue", "cpus", "--slurm_gpu_queue", "gpus", "--slurm_account", "lab", "--slurm_qos", "long",
                stand_ins=SCHEDULER)  # fmt: skip
    asked = {name: re.findall(r"^#SBATCH (.*)$", script, flags=re.MULTILINE) for name, script in tasks.items()}
    assert "-p gpus" in asked["TRAIN"] and "--account=lab --qos=long --gres=gpu:1" in asked["TRAIN"]
    assert "-p cpus" in asked["OTHER"] and "--account=lab --qos=long" in asked["OTHER"]
    assert ". '" in tasks["OTHER"] and "/containers/activate' core" in tasks["OTHER"]


def test_slurm_without_options(run):
    tasks = run("slurm", "--slurm_gpu_queue", "gpus", stand_ins=SCHEDULER)
    for script in tasks.values():
        assert not re.search(r"^#SBATCH (-p|--account|--qos|.*gres)", script, flags=re.MULTILINE)


# What runs a container in the task's script, how it is told to use a GPU, and what else must be there
ENGINE_FACTS = {
    "docker": ("docker run", "--gpus all", "--network none -u $(id -u):$(id -g)"),
    "podman": ("podman run", "--device nvidia.com/gpu=all", "--network none --userns=keep-id"),
    "singularity": ("singularity exec", "--nv", "NUMBA_CACHE_DIR"),
    "apptainer": ("apptainer exec", "--nv", "NUMBA_CACHE_DIR"),
}


@pytest.mark.parametrize("engine", ENGINE_FACTS)
def test_engine_is_told(run, engine):
    command, gpu, rest = ENGINE_FACTS[engine]
    pull = '[[ $1 != pull ]] || { for word; do [[ $word != *.img* ]] || touch "$word"; done; }'
    tasks = run(f"{engine},gpu", "--container_registry", "registry.example/lab/", stand_ins={engine: pull})
    lines = {name: "\n".join(line for line in script.splitlines() if command in line) for name, script in tasks.items()}
    assert gpu in lines["TRAIN"]
    assert gpu not in lines["OTHER"]
    cpus = {"TRAIN": 2, "OTHER": 1}
    for name, env in (("TRAIN", "scvi"), ("OTHER", "core")):
        assert rest in tasks[name]
        # Docker and Podman hand on what is named, the others all that there is
        assert engine in ("docker", "podman") or 'env - PATH="$PATH"' in lines[name]
        assert all(handed.startswith("NXF_") for handed in re.findall(r' -e "?(\w+)', lines[name]))
        assert f"OMP_NUM_THREADS={cpus[name]} " in tasks[name]
        assert re.search(rf"registry\.example[/-]lab[/-]refmap[/-]{env}[:-]", lines[name])
        assert "containers/activate" not in tasks[name]
