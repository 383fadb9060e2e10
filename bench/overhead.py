"""What one mapping costs over and above its training: CPU seconds of every step, for the 700 PBMCs that scanpy ships.

The training step is run for inference only: what is left is its start, the surgery, the embedding and the saving.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bin"))

SETTINGS = {
    "reference": None,
    "family": "scanvi",
    "seed": 0,
    "reference_batch_key": "batch",
    "reference_labels_key": "bulk_labels",
    "reference_layer": "X",
    "reference_var_key": None,
    "reference_protein_key": None,
    "reference_unlabeled_category": "Unknown",
    "reference_categorical_covariate_keys": None,
    "reference_continuous_covariate_keys": None,
    "reference_max_epochs": 1,
    "reference_n_latent": 10,
    "reference_n_layers": 2,
}
SHEET = "dataset,file_id,query,model,batch_key,truth_key,train\npbmc,all,query.h5ad,model,batch,bulk_labels,false\n"


def step(env: str, command: str) -> tuple[float, float]:
    """Run a command of `bin/` in an environment; return its CPU and wall seconds, those of its children included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    script = f". '{ROOT}/containers/activate' {env} && export OMP_NUM_THREADS=2 && '{ROOT}'/bin/{command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - start


def main() -> None:
    from refmap.demo import pbmc_counts

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        pbmc_counts().write_h5ad("query.h5ad")
        Path("reference.json").write_text(json.dumps(SETTINGS))
        Path("sheet.csv").write_text(SHEET)
        Path("params.json").write_text(json.dumps({"input": "sheet.csv"}))
        step(
            "core",
            "align_reference.py --atlas query.h5ad --parameters reference.json --output atlas.zarr --settings settings.json",
        )
        step("scvi", "train_reference.py --aligned atlas.zarr --settings settings.json --model model")
        step(
            "core",
            f"check_input.py --sheet sheet.csv --parameters params.json --schema '{ROOT}/nextflow_schema.json' --output row.json",
        )
        step("core", "inspect_model.py --model model --card card.json")
        steps = {
            "CHECK_QUERY": ("core", "check_query.py --row row.json --query query.h5ad --card card.json --output plan.json"),
            "ALIGN_GENES": (
                "core",
                "align_genes.py --plan plan.json --query query.h5ad --card card.json --output aligned.zarr --alignment alignment.json",
            ),
            "TRAIN_SURGERY": (
                "scvi",
                "train_surgery.py --plan plan.json --training row.json --aligned aligned.zarr --alignment alignment.json --model model --card card.json"
                " --updated-model updated --embedding embedding.zarr --history history.csv --mapping mapping.json --results results",
            ),
            "EXPORT_EMBEDDING": (
                "core",
                "export_embedding.py --plan plan.json --query query.h5ad --embedding embedding.zarr --output out.zarr",
            ),
            "QC_MAPPING": (
                "core",
                "qc_mapping.py --plan plan.json --query query.h5ad --alignment alignment.json --mapping mapping.json"
                " --history history.csv --embedding embedding.zarr --results results --output qc",
            ),
        }
        print("One mapping of 700 cells, without its training:\n")
        print(f"{'step':<18}{'CPU s':>8}{'wall s':>8}")
        total = [0.0, 0.0]
        for name, (env, command) in steps.items():
            spent = step(env, command)
            if name == "QC_MAPPING":  # the first one in an environment compiles UMAP, and keeps it for all that follow
                first, spent = spent, step(env, command.replace("--output qc", "--output again"))
            total = [a + b for a, b in zip(total, spent, strict=True)]
            print(f"{name:<18}{spent[0]:>8.1f}{spent[1]:>8.1f}", flush=True)
        print(f"{'in all':<18}{total[0]:>8.1f}{total[1]:>8.1f}")
        print(
            f"\nQC_MAPPING was run twice: {first[0]:.1f} s of CPU the first time, which compiles UMAP where that is not yet done."
        )


if __name__ == "__main__":
    main()
