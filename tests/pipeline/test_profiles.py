"""The profiles: each parses, GPUs are asked for by what runs a model alone, and what SLURM and the container engines are told is right.

The engines and SLURM are stand-ins on PATH: what counts here is what Nextflow writes for them.
"""

import re
import shutil
import subprocess
from functools import cache

import pytest
from runs import ENVIRONMENT, ROOT

ENGINES = ("docker", "podman", "singularity", "apptainer", "charliecloud")
PLATFORMS = ("slurm", "awsbatch", "googlebatch", "azurebatch", "k8s")

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

process FETCH {
    label 'process_network'

    script:
    "true"
}

workflow {
    TRAIN()
    OTHER()
    FETCH()
}
"""


# Two steps of three mappings, as the pipeline has them: together they are small ones, and alone by themselves
STEPS = """
process ALIGN_GENES {
    input:
    tuple val(id), val(size)

    output:
    tuple val(id), val(size)

    script:
    "true"
}

process TRAIN_SURGERY {
    label 'process_gpu'
    ext env: { 'scvi' }

    input:
    tuple val(id), val(size)

    script:
    "true"
}

workflow STEPS {
    take:
    mappings

    main:
    ALIGN_GENES(mappings)
    TRAIN_SURGERY(ALIGN_GENES.out)
}
"""
MAPPINGS = """
include { STEPS as TOGETHER ; STEPS as ALONE } from './steps.nf'

workflow MAPPING {
    size = [bytes: 5000000, all_bytes: 5000000, cells: 500, values: 10000, mappings: 1, all_cells: 500, all_passes: 1000]
    TOGETHER(channel.of(1, 2, 3).map { id -> [id, size] })
    ALONE(channel.of(4).map { id -> [id, size] })
}

workflow {
    MAPPING()
}
"""


@cache
def config(profile, project=ROOT):
    """The pipeline's settings under a profile, by their full name: {'docker.enabled': 'true', …}."""
    ran = subprocess.run(["nextflow", "config", str(project), "-flat", "-profile", profile],
                         env=ENVIRONMENT, cwd="/", text=True, capture_output=True, timeout=120)  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARN" not in ran.stdout + ran.stderr
    return dict(re.findall(r"^([a-z]\S*) = (.*(?:\n(?![a-z]\S* = ).*)*)", ran.stdout.rstrip(), flags=re.MULTILINE))


@pytest.fixture
def run(tmp_path):
    """Run a few tasks under a profile of the pipeline; what Nextflow wrote to run each process, and each in an array."""

    def run_profile(profile, *arguments, stand_ins, pipeline=PIPELINE):
        for name, script in stand_ins.items():
            tool = tmp_path / "bin" / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(f"#!/bin/bash\n{script}\n")
            tool.chmod(0o755)
        (tmp_path / "main.nf").write_text(pipeline)
        (tmp_path / "steps.nf").write_text(STEPS)
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
        return {
            re.search(r"### name: '(?:MAPPING:)?([\w:]+)", script).group(1) + " in an array" * ("### array:" in script): script
            for script in scripts
        }

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
    # Newer versions name each of its parts
    assert {name.split(".accelerator")[0] for name in settings if ".accelerator" in name} == {training.removesuffix(".")}
    surgery = "process.'withName:TRAIN_SURGERY'."
    for resource in (training + "cpus", surgery + "memory", surgery + "time"):
        assert settings[resource] == plain[resource]


# A scheduler that runs a job, or all of an array, at once, and has none left when asked
SCHEDULER = {
    "sbatch": """
        last=$(sed -n 's/^#SBATCH --array 0-//p' "$1")
        for ((i = 0; i <= ${last:-0}; i++)); do SLURM_ARRAY_TASK_ID=$i bash "$1" >/dev/null 2>&1 & done
        echo "Submitted batch job $$"
    """,
    "squeue": "",
    "scancel": "",
}


def options(script):
    """What a job's script asks SLURM for."""
    return re.findall(r"^#SBATCH (.*?) *$", script, flags=re.MULTILINE)


def test_slurm_options(run):
    tasks = run("slurm,gpu", "--slurm_queue", "cpus", "--slurm_gpu_queue", "gpus", "--slurm_account", "lab", "--slurm_qos", "long",
                stand_ins=SCHEDULER)  # fmt: skip
    asked = {name: options(script) for name, script in tasks.items()}
    assert "-p gpus" in asked["TRAIN"] and "--account=lab --qos=long --gres=gpu:1" in asked["TRAIN"]
    assert "-p cpus" in asked["OTHER"] and "--account=lab --qos=long" in asked["OTHER"]
    assert ". '" in tasks["OTHER"] and "/containers/activate' core" in tasks["OTHER"]


def test_slurm_without_options(run):
    tasks = run("slurm", "--slurm_gpu_queue", "gpus", stand_ins=SCHEDULER)
    for script in tasks.values():
        assert not re.search(r"^#SBATCH (-p|--account|--qos|.*gres)", script, flags=re.MULTILINE)


def test_an_array_asks_once_for_what_small_mappings_need(run):
    tasks = run("slurm,gpu,docker", "--slurm_gpu_queue", "gpus", "--job_array", "2", "--mappings_per_task", "3",
                "--max_small_cells", "20000", "--max_epochs", "8", stand_ins=SCHEDULER | {"docker": ""}, pipeline=MAPPINGS)  # fmt: skip
    assert {name for name in tasks if name.endswith("in an array")} == {
        "TOGETHER:ALIGN_GENES in an array", "TOGETHER:TRAIN_SURGERY in an array",
    }  # fmt: skip
    # 2 GB and a fifth of 20,000 times 10 KB; 1 h, three times 6 min and 600,000 times 1 ms
    assert {"--array 0-1", "--mem 2086M", "-t 01:28:00"} <= set(options(tasks["TOGETHER:ALIGN_GENES in an array"]))
    # 6 GB on a GPU, 20,000 times 1 KB and 2,000 values of 48 B each; 1 h, three times 1 min and 10 times 20,000 ms
    training = options(tasks["TOGETHER:TRAIN_SURGERY in an array"])
    assert {"--array 0-1", "--mem 7994M", "-t 01:13:00", "-p gpus", "--gres=gpu:1"} <= set(training)
    assert not any(option.startswith("-c ") for option in training)  # SLURM gives a task one CPU
    # What is submitted by itself knows its own size: 6 GB, 500 times 1 KB and 10,000 values of 48 B; 1 h, 1 min and 1 s
    assert {"--mem 6144M", "-t 01:01:01"} <= set(options(tasks["ALONE:TRAIN_SURGERY"]))
    for name, script in tasks.items():
        # An array is in no container, each of its tasks is in its own
        assert ("docker run" in script) != name.endswith("in an array"), name
    assert "refmap/scvi:" in tasks["TOGETHER:TRAIN_SURGERY"] and "refmap/core:" in tasks["TOGETHER:ALIGN_GENES"]


CORE = "process.'withName:.*:(ALIGN_GENES|TOGETHER:EXPORT_EMBEDDING)'.array"
OTHERS = "process.'withName:.*:TOGETHER:(TRAIN_SURGERY|UPDATE_HIERARCHY)'.array"


@pytest.fixture(scope="module")
def with_arrays(tmp_path_factory):
    """The pipeline's settings, with job arrays by default: `nextflow config` takes no parameters."""
    project = tmp_path_factory.mktemp("with_arrays")
    for name in ("main.nf", "nextflow.config"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "conf", project / "conf")
    defaults = project / "conf/params.config"
    defaults.write_text(re.sub(r"job_array( *)= 0", r"job_array\1= 100", defaults.read_text()))
    return project


@pytest.mark.parametrize(
    "profile, arrays",
    [
        ("local", set()),
        ("slurm", {CORE, OTHERS}),
        ("awsbatch", {CORE}),
        ("googlebatch", {CORE}),
        ("azurebatch", set()),
        ("k8s", set()),
    ],
)
def test_arrays_are_for_the_platforms_that_have_them(with_arrays, profile, arrays):
    settings = config(profile, with_arrays)
    assert settings["params.job_array"] == "100"
    assert {name for name, value in settings.items() if name.endswith(".array") and value == "100"} == arrays
    assert {value for name, value in config(profile).items() if name.endswith(".array")} <= {"0"}


def test_an_array_fits_into_the_queue(with_arrays):
    assert (config("slurm")["executor.queueSize"], config("slurm", with_arrays)["executor.queueSize"]) == ("100", "200")


def test_a_scheduler_that_does_not_answer_is_asked_again():
    told = subprocess.run(["nextflow", "-version"], env=ENVIRONMENT, text=True, capture_output=True, check=True).stdout
    version = tuple(map(int, re.search(r"version (\d+)\.(\d+)", told).groups()))
    settings = config("slurm")
    reason = "'Socket timed out|Unable to contact slurm controller'"
    assert settings["executor.retry.reason"] == reason
    assert settings.get("executor.submit.retry.reason") == (reason if version < (25, 10) else None)


# What runs a container in the task's script, how it is told to use a GPU, and what else must be there
ENGINE_FACTS = {
    "docker": ("docker run", "--gpus all", "-u $(id -u):$(id -g)"),
    "podman": ("podman run", "--device nvidia.com/gpu=all", "--userns=keep-id"),
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
        # Docker and Podman hand on what is named, the others all that there is: which GPU is the task's, and nothing else
        kept = f"${{CUDA_VISIBLE_DEVICES:+{engine.upper()}ENV_CUDA_VISIBLE_DEVICES="
        assert engine in ("docker", "podman") or ('env - PATH="$PATH"' in lines[name] and kept in lines[name])
        assert all(handed.startswith("NXF_") for handed in re.findall(r' -e "?(\w+)', lines[name]))
        assert f"OMP_NUM_THREADS={cpus[name]} " in tasks[name]
        assert re.search(rf"registry\.example[/-]lab[/-]refmap[/-]{env}[:-]", lines[name])
        assert "containers/activate" not in tasks[name]
    if engine in ("docker", "podman"):
        assert {name: "--network none" in line for name, line in lines.items()} == {"TRAIN": True, "OTHER": True, "FETCH": False}
        assert {"HF_TOKEN", "ZENODO_TOKEN"} <= set(re.findall(r" -e (\w+)", lines["FETCH"]))
    unset = {name: "-u HF_TOKEN -u ZENODO_TOKEN" in line for name, line in tasks.items()}
    assert unset == {"TRAIN": True, "OTHER": True, "FETCH": False}
