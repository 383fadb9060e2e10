"""The whole pipeline by its stubs: which tasks there are, in which environments, what is published, and what a fault leaves out."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from runs import Run

# Three mappings a task; of those of surgery the first is killed and the second has a fault; a model with a hierarchy
CONFIG = """
process {
    withName: TRAIN_SURGERY {
        afterScript = "[[ ! -d mapped/pbmc~donor_2 ]] || { rm -r {mapped,models}/pbmc~donor_*; echo '{}' > pbmc~donor_2.fault.json; }"
    }
    withName: INSPECT_MODEL {
        afterScript = '''echo '{"family": "scvi", "env": "scvi", "hierarchy": {}, "fault": null}' > card.json'''
    }
}
"""


class StubRun(Run):
    """A finished run of the stubs."""

    def __init__(self, folder: Path, *arguments: str):
        super().__init__(folder, "-stub-run", *arguments)

    def counts(self) -> dict[str, int]:
        """How many tasks of each process there were; all of them succeeded."""
        tasks = self.tasks()
        assert set(tasks.values()) == {"COMPLETED"}
        return dict(Counter(name.split(" ")[0] for name in tasks))

    def scripts(self, process: str) -> list[Path]:
        """What Nextflow wrote to start each task of a process."""
        scripts = sorted(self.folder.glob("work*/*/*/.command.run"))
        return [path for path in scripts if re.search(rf"### name: '(\w+:)*{process}\b", path.read_text())]

    def environment(self, process: str) -> str:
        """The environment that the tasks of a process run in."""
        (name,) = {re.search(r"containers/activate' (\w+)", path.read_text())[1] for path in self.scripts(process)}
        return name

    def published(self) -> list[str]:
        """All files but those about the run itself and its lock; a zarr counts as one."""
        files = (path.relative_to(self.out) for path in self.out.rglob("*") if path.is_file())
        names = {re.sub(r"\.zarr/.*", ".zarr", str(path)) for path in files}
        return sorted(name for name in names - {".refmap.lock"} if not name.startswith("pipeline_info/"))


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> StubRun:
    """The demo, with a hierarchy, and with all of its mappings in one task of each step."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "stubs.config").write_text(CONFIG)
    return StubRun(folder, "-c", "stubs.config", "-profile", "test", "--family", "treearches", "--mappings_per_task", "3")


def test_what_a_shared_task_left_undone_is_done_alone_but_for_a_fault(together):
    assert together.status == 0, together.printed
    assert together.counts() == {
        **{"MAKE_DEMO": 1, "CHECK_INPUT": 1, "ALIGN_REFERENCE": 1, "TRAIN_REFERENCE": 1, "LEARN_HIERARCHY": 1},
        **{"INSPECT_MODEL": 1, "TRY_MODEL": 1, "PREPARE_REFERENCE": 1, "EMBED_REFERENCE": 1, "CALIBRATE_REFERENCE": 1},
        **{"SAVE_REFERENCE": 1, "ALIGN_GENES": 1, "JOIN_MAPPINGS": 1, "REPORT": 1, "VERDICT": 1},
        # The steps of the one that was killed are done once more, from the surgery on
        **dict.fromkeys(["TRAIN_SURGERY", "UPDATE_HIERARCHY", "EXPORT_EMBEDDING"], 2),
    }
    assert {"TRAIN_SURGERY (clinic~patient_1 and 2 more)", "TRAIN_SURGERY (pbmc~donor_1)"} <= set(together.tasks())
    assert together.published() == [
        "multiqc/multiqc_report.html",
        "reference_mapping/dataset~clinic/file_id~patient_1.zarr",
        "reference_mapping/dataset~pbmc/file_id~donor_1.zarr",
        "reference_mapping/joint/reference_model.h5ad",
        "reference_mapping/joint/reference_model.html",
        "reference_mapping/joint/reference_model.zarr",
        "reference_mapping/mappings.csv",
        "reference_mapping/model/dataset~clinic/file_id~patient_1/hierarchy/hierarchy.json",
        "reference_mapping/model/dataset~clinic/file_id~patient_1/model.pt",
        "reference_mapping/model/dataset~pbmc/file_id~donor_1/hierarchy/hierarchy.json",
        "reference_mapping/model/dataset~pbmc/file_id~donor_1/model.pt",
        "reference_mapping/qc/dataset~clinic/file_id~patient_1/mapping.json",
        "reference_mapping/qc/dataset~pbmc/file_id~donor_1/mapping.json",
        "reference_model/hierarchy/hierarchy.json",
        "reference_model/model.pt",
        "reference_model/refmap/reference.json",
    ]


def test_the_report_is_given_what_became_of_every_mapping(together):
    (script,) = together.scripts("REPORT")
    folders = ("plans", "cards", "references", "faults", "qc")
    assert {name: sorted(path.name for path in (script.parent / name).iterdir()) for name in folders} == {
        "plans": ["clinic~patient_1.plan.json", "pbmc~donor_1.plan.json", "pbmc~donor_2.plan.json"],
        "cards": ["1.json"],
        "references": ["1.json"],
        "faults": ["pbmc~donor_2.fault.json"],
        "qc": ["clinic~patient_1", "pbmc~donor_1"],
    }
    passed = json.loads((script.parent / "passed.json").read_text())
    steps = ["CHECK_QUERY", "ALIGN_GENES", "TRAIN_SURGERY", "UPDATE_HIERARCHY", "EXPORT_EMBEDDING"]
    done = [[name, step] for name in ("clinic~patient_1", "pbmc~donor_1") for step in steps]
    assert sorted(passed) == sorted([*done, *(["pbmc~donor_2", step] for step in steps[:2])])


def test_each_process_runs_in_its_environment(together):
    environments = {process: together.environment(process) for process in together.counts() if process != "VERDICT"}
    by_the_model = dict.fromkeys(["TRAIN_REFERENCE", "TRY_MODEL", "EMBED_REFERENCE", "TRAIN_SURGERY"], "scvi")
    hierarchical = {"LEARN_HIERARCHY": "scarches", "UPDATE_HIERARCHY": "scarches"}
    assert environments == dict.fromkeys(environments, "core") | by_the_model | hierarchical


# One model without cells, and others whose cells are embedded already
CELLS = """
process {
    withName: PREPARE_REFERENCE {
        afterScript = { "echo '{\\"source\\": ${reference.model == 'other' ? null : '\\"X_emb\\"'}, \\"fault\\": null}' > reference/reference.json" }
    }
}
"""


def test_mappings_onto_one_model_share_tasks_and_an_inspection_and_its_cells(tmp_path):
    for name in ("query.h5ad", "the atlas's; & more/model.pt", "other/model.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    rows = [("a", "the atlas's; & more"), ("b", "other"), ("c", "the atlas's; & more"), ("d", "the atlas's; & more")]
    lines = [f"lung,{file_id},query.h5ad,{model},donor" for file_id, model in rows]
    (tmp_path / "my sheet.csv").write_text("\n".join(["dataset,file_id,query,model,batch_key", *lines, ""]))
    (tmp_path / "cells.config").write_text(CELLS)
    run = StubRun(tmp_path, "-c", "cells.config", "--input", "my sheet.csv", "--mappings_per_task", "2")
    assert run.status == 0, run.printed
    assert run.counts() == {
        **{"CHECK_INPUT": 1, "INSPECT_MODEL": 2, "TRY_MODEL": 2, "PREPARE_REFERENCE": 2, "CALIBRATE_REFERENCE": 1},
        # Three a bundle
        **{"ALIGN_GENES": 3, "TRAIN_SURGERY": 3, "EXPORT_EMBEDDING": 3},
        **{"JOIN_MAPPINGS": 2, "REPORT": 1, "VERDICT": 1},
    }
    near = {path.parent.joinpath("reference").exists() for path in run.scripts("EXPORT_EMBEDDING")}
    labelled = sorted(path.name for script in run.scripts("EXPORT_EMBEDDING") for path in script.parent.glob("labelled/*"))
    assert near == {True, False} and labelled == ["lung~a", "lung~c", "lung~d"]
    trained = [name for name in run.tasks() if name.startswith("TRAIN_SURGERY")]
    assert sorted(trained) == ["TRAIN_SURGERY (lung~a and 1 more)", "TRAIN_SURGERY (lung~b)", "TRAIN_SURGERY (lung~d)"]
    # Cards all have one name, and are not put one over another
    (script,) = run.scripts("REPORT")
    assert sorted(path.name for path in (script.parent / "cards").iterdir()) == ["1.json", "2.json"]
    assert run.published() == sorted([
        "multiqc/multiqc_report.html",
        "reference_mapping/mappings.csv",
        *(f"reference_mapping/dataset~lung/file_id~{name}.zarr" for name, _ in rows),
        *(f"reference_mapping/model/dataset~lung/file_id~{name}/model.pt" for name, _ in rows),
        *(f"reference_mapping/qc/dataset~lung/file_id~{name}/mapping.json" for name, _ in rows),
        *(f"reference_mapping/joint/{name}.{kind}" for name in ("the_atlas_s____more", "other") for kind in ("h5ad", "html", "zarr")),
    ])  # fmt: skip


def test_cells_are_embedded_once_whichever_of_their_labels_are_wanted(tmp_path):
    for name in ("query.h5ad", "cells.h5ad"):
        (tmp_path / name).touch()
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas/model.pt").touch()
    rows = [
        f"lung,{file_id},query.h5ad,atlas,donor,cells.h5ad,{keys}" for file_id, keys in [("a", "l1"), ("b", "l1;l2"), ("c", "")]
    ]
    head = "dataset,file_id,query,model,batch_key,reference,transfer_keys"
    (tmp_path / "sheet.csv").write_text("\n".join([head, *rows, ""]))
    run = StubRun(tmp_path, "--input", "sheet.csv")
    assert run.status == 0, run.printed
    # Tasks of one model have one name, so they are counted by what started them.
    assert {name for name in run.published() if name.endswith("html")} == {
        "multiqc/multiqc_report.html",
        *(f"reference_mapping/joint/{name}.html" for name in ("atlas", "atlas_2", "atlas_3")),
    }
    counts = {
        name: len(run.scripts(name))
        for name in ("PREPARE_REFERENCE", "EMBED_REFERENCE", "CALIBRATE_REFERENCE", "EXPORT_EMBEDDING")
    }
    assert counts == {"PREPARE_REFERENCE": 3, "EMBED_REFERENCE": 1, "CALIBRATE_REFERENCE": 3, "EXPORT_EMBEDDING": 3}


def test_what_is_killed_beside_others_in_any_step_is_done_alone(tmp_path):
    (tmp_path / "query.h5ad").touch()
    (tmp_path / "model").mkdir()
    lost = {
        # One while it is checked, one while it is aligned
        "ALIGN_GENES": "plans/d~a.plan.json prepared/d~[ab]",
        "TRAIN_SURGERY": "mapped/d~e",
        # One before it is written, one while its figures are drawn
        "EXPORT_EMBEDDING": "qc/d~[cd] labelled/d~c exported/d~c.zarr",
    }
    steps = "\n".join(
        f"    withName: {step} {{ afterScript = {{ ids.size() > 1 ? 'rm -r {path}' : '' }} }}" for step, path in lost.items()
    )
    (tmp_path / "killed.config").write_text(f"process {{\n{steps}\n}}\n")
    rows = [f"d,{name},query.h5ad,model,donor\n" for name in "abcdef"]
    (tmp_path / "sheet.csv").write_text("dataset,file_id,query,model,batch_key\n" + "".join(rows))
    run = StubRun(tmp_path, "-c", "killed.config", "--input", "sheet.csv", "--mappings_per_task", "6")
    assert run.status == 0, run.printed
    alone = {name for name in run.tasks() if name.startswith("EXPORT_EMBEDDING")}
    assert alone == {f"EXPORT_EMBEDDING ({which})" for which in ("d~a and 4 more", "d~c", "d~d", "d~e")}
    assert {"ALIGN_ALONE (d~a)", "ALIGN_ALONE (d~b)", "TRAIN_SURGERY (d~a and 5 more)"} <= run.tasks().keys()
    assert [name for name in run.published() if "/qc/" in name] == [
        f"reference_mapping/qc/dataset~d/file_id~{name}/mapping.json" for name in "abcdef"
    ]


ATLAS = ("--reference", "atlas.h5ad", "--reference_batch_key", "donor", "--reference_labels_key", "cell type's $HOME")


def test_an_atlas_alone_is_trained_on_and_nothing_mapped(tmp_path):
    (tmp_path / "atlas.h5ad").touch()
    run = StubRun(tmp_path, *ATLAS)
    assert run.status == 0, run.printed
    assert run.counts() == {
        **{"CHECK_INPUT": 1, "ALIGN_REFERENCE": 1, "TRAIN_REFERENCE": 1, "INSPECT_MODEL": 1, "TRY_MODEL": 1},
        **{"PREPARE_REFERENCE": 1, "EMBED_REFERENCE": 1, "CALIBRATE_REFERENCE": 1, "SAVE_REFERENCE": 1},
    }
    assert run.published() == ["reference_model/model.pt", "reference_model/refmap/reference.json"]


def test_a_reference_that_cannot_be_measured_is_published_as_it_was_trained(tmp_path):
    (tmp_path / "atlas.h5ad").touch()
    (tmp_path / "killed.config").write_text("process { withName: CALIBRATE_REFERENCE { beforeScript = 'exit 1' } }")
    run = StubRun(tmp_path, *ATLAS, "-c", "killed.config")
    assert run.tasks()["CALIBRATE_REFERENCE (the reference trained in this run)"] == "FAILED"
    assert run.published() == ["reference_model/model.pt"]


def test_what_was_prepared_of_a_reference_is_kept_for_another_run_until_its_file_changes(tmp_path):
    (tmp_path / "query.h5ad").touch()
    (tmp_path / "cells.h5ad").write_text("one")
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas/model.pt").touch()
    head = "dataset,file_id,query,model,batch_key,reference,transfer_keys"
    (tmp_path / "sheet.csv").write_text(f"{head}\nlung,a,query.h5ad,atlas,donor,cells.h5ad,l1\n")
    prepared = {f"{step}_REFERENCE" for step in ("PREPARE", "EMBED", "CALIBRATE")}
    kept = []
    for number, cells in enumerate(["one", "one", "two"]):
        (tmp_path / "cells.h5ad").write_text(cells)
        run = StubRun(tmp_path, "--input", "sheet.csv", "--cache", "kept", "-work-dir", f"work_{number}")
        assert run.status == 0, run.printed
        done = set(run.counts())
        assert {"IDENTIFY_REFERENCE", "EXPORT_EMBEDDING"} <= done
        kept.append(sorted(path.name for path in (tmp_path / "kept/references").iterdir()))
        assert done & prepared == (set() if number == 1 else prepared)
    assert kept[0] == kept[1] and len(kept[0]) == 1 and len(kept[2]) == 2 and set(kept[0]) < set(kept[2])


def test_nothing_is_trained_before_the_sheet_is_right(tmp_path):
    (tmp_path / "atlas.h5ad").touch()
    (tmp_path / "sheet.csv").write_text("dataset,file_id,query,model,batch_key\nlung,a,q.h5ad,m,donor\nlung,a,r.h5ad,m,donor\n")
    run = StubRun(tmp_path, *ATLAS, "--input", "sheet.csv")
    assert run.status != 0
    assert "dataset 'lung' has a file_id 'a' already" in run.printed
    assert run.tasks() == {"CHECK_INPUT": "FAILED"}


def test_what_an_address_leads_to_is_fetched_once_and_kept_for_another_run(tmp_path):
    (tmp_path / "query.h5ad").touch()
    head = "dataset,file_id,query,model,batch_key,reference"
    models = [("a", "hf://lab/atlas", ""), ("b", "hf://lab/atlas", "zenodo:7/cells.h5ad"), ("c", "", "")]
    rows = [f"lung,{name},query.h5ad,{model},donor,{cells}\n" for name, model, cells in models]
    (tmp_path / "sheet.csv").write_text(f"{head}\n{''.join(rows)}")
    # The last row is mapped onto a reference that is trained on an atlas which has an address too
    trained = ["--reference", "https://atlas.example/cells.zip", *ATLAS[2:]]
    for number in range(2):
        run = StubRun(tmp_path, "--input", "sheet.csv", *trained, "--cache", "kept", "-work-dir", f"work_{number}")
        assert run.status == 0, run.printed
        done = run.counts()
        assert (done["RESOLVE_ADDRESS"], done.get("FETCH_MODEL", 0)) == (3, 3 if number == 0 else 0)
        assert (done["TRAIN_REFERENCE"], done["INSPECT_MODEL"], done["EXPORT_EMBEDDING"]) == (1, 2, 3)
    kept = tmp_path / "kept/models"
    atlas = run.scripts("ALIGN_REFERENCE")[0].with_name("atlas").resolve()
    assert atlas.is_relative_to(kept.resolve())
    # Its cells are prepared once a run, whether a row asks for them or the model's folder
    assert [path.with_name("cells").resolve() for path in run.scripts("PREPARE_REFERENCE")].count(atlas) == 2
    assert len(list(kept.iterdir())) == 3


def test_embeddings_that_come_along_are_judged_in_bundles_and_need_no_surgery(tmp_path):
    """The first of a bundle is killed in its last step, and there is no column of batches."""
    for name in ("query.h5ad", "atlas.h5ad"):
        (tmp_path / name).touch()
    (tmp_path / "killed.config").write_text(
        "process { withName: EXPORT_EMBEDDING { afterScript = { ids.size() > 1 ? 'rm -r exported/lung~a.zarr labelled/lung~a qc/lung~a' : '' } } }"
    )
    rows = [f"lung,{name},query.h5ad,X_uce,atlas.h5ad,{key}\n" for name, key in [("a", "X_uce"), ("b", "X_uce"), ("c", "X_own")]]
    head = "dataset,file_id,query,query_embedding,reference,reference_embedding\n"
    (tmp_path / "sheet.csv").write_text(head + "".join(rows))
    run = StubRun(tmp_path, "-c", "killed.config", "--input", "sheet.csv", "--mappings_per_task", "2")
    assert run.status == 0, run.printed
    counts = run.counts()
    assert {"TRY_MODEL", "TRAIN_SURGERY"}.isdisjoint(counts)
    # The one that was killed is not aligned again
    assert (counts["INSPECT_MODEL"], counts["ALIGN_GENES"], counts["EXPORT_EMBEDDING"]) == (2, 2, 3)
    assert {"ALIGN_GENES (lung~a and 1 more)", "EXPORT_EMBEDDING (lung~a)", "ALIGN_GENES (lung~c)"} <= set(run.tasks())
    mapped = [name for name in run.published() if name.startswith("reference_mapping/") and "/joint/" not in name]
    assert mapped == sorted([
        "reference_mapping/mappings.csv",
        *(f"reference_mapping/dataset~lung/file_id~{name}.zarr" for name in "abc"),
        *(f"reference_mapping/qc/dataset~lung/file_id~{name}/mapping.json" for name in "abc"),
    ])  # fmt: skip
    passed = json.loads((run.scripts("REPORT")[0].parent / "passed.json").read_text())
    assert ["lung~a", "TRAIN_SURGERY"] in passed and ["lung~c", "TRAIN_SURGERY"] in passed
