"""Every fault that metadata show, all at once, and the names of the batches."""

import json

import numpy as np
import pandas as pd
import pytest
from align_genes import align_genes
from click.testing import CliRunner
from refmap.common.strategies import STRATEGIES, faults_of
from refmap.families.options import Option
from refmap.families.scvi.options import PROTEIN_OPTIONS
from refmap.query.checks import check
from refmap.query.columns import name_batches
from refmap.query.matrix import Matrix
from small_queries import MODEL, make_card, make_query, make_row


@pytest.fixture(autouse=True)
def no_matrix_is_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("a check read a matrix")

    monkeypatch.setattr(Matrix, "chunks", refuse)
    monkeypatch.setattr(Matrix, "sample", refuse)


def plan_of(adata, tmp_path, card=None, **row):
    adata.write_h5ad(tmp_path / "query")
    return check(tmp_path / "query", make_row(**row), card or make_card())


def test_a_good_query_has_a_plan(tmp_path):
    plan = plan_of(make_query(MODEL), tmp_path)
    assert plan == {
        "row": make_row(),
        "query": {
            "format": "h5ad",
            "n_cells": 9,
            "n_genes": 12,
            "n_values": make_query(MODEL).X.nnz,
            "n_genes_found": 12,
            "n_model_genes": 12,
            "n_proteins_found": None,
        },
        "counted": True,
        "batches": {name: {"cells": 3, "name": name} for name in ("d1", "d2", "d3")},
        "batch_column": "batch",
        "covariates": {},
        "options": {},
        "refused": {},
        "faults": [],
        "warnings": [],
    }
    assert json.loads(json.dumps(plan)) == plan


def without_cells(adata):
    return adata[:0].copy()


def without_genes(adata):
    return adata[:, :0].copy()


def with_duplicates(adata):
    adata.obs_names = ["a", "a", "b", "b", *adata.obs_names[4:]]
    return adata


def without_matrix(adata):
    adata.X = None
    del adata.layers["counts"]
    return adata


def with_gap(adata):
    adata.obs.loc[adata.obs_names[:2], "donor"] = None
    return adata


def with_age(*values):
    def change(adata):
        adata.obs["age"] = list(values) * (9 // len(values))
        return adata

    return change


def same(adata):
    return adata


CONTINUOUS = make_card(continuous_covariates=["age"])
CATEGORICAL = make_card(categorical_covariates={"chip": ["1"], "site": ["x"]})
PROTEINS = make_card(proteins=["CD3", "CD4"], protein_key="adt")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    ("change", "row", "card", "fault"),
    [
        (without_cells, {}, None, "has no cells."),
        (without_genes, {}, None, "has no genes."),
        (with_duplicates, {}, None, "has 2 duplicate cell names (such as 'a'): make them unique, e.g. with adata.obs_names_make_unique()."),
        (same, {"layer": "countz"}, None, "has no layer 'countz': set layer to one of 'X', 'counts'. Did you mean 'counts'?"),
        (same, {"layer": "raw"}, None, "has no raw.X: set layer to one of 'X', 'counts'."),
        (without_matrix, {}, None, "holds no matrix at all, neither X nor a layer nor raw: give a query with raw counts."),
        (same, {"batch_key": "doner"}, None, "has no obs column 'doner': its columns are 'donor'. Did you mean 'donor'?"),
        (same, {"batch_key": None}, None, "needs a batch column, as the model has batches of 'batch': name it as batch_key, or set one_batch: true."),
        (
            with_gap, {}, None,
            "has 2 of 9 cells without a value in batch column 'donor': fill them, remove these cells, or set one_batch: true.",
        ),
        (same, {"labels_keys": ["typ"]}, None, "has no obs column 'typ': its columns are 'donor'."),
        (same, {"truth_key": "typ"}, None, "has no obs column 'typ': its columns are 'donor'."),
        (same, {"mapqc_sample_key": "sample"}, None, "has no obs column 'sample': its columns are 'donor'."),
        (
            with_age(""), {"mapqc_sample_key": "age"}, None,
            "has no cell with a sample in column 'age' (mapqc_sample_key): name another column.",
        ),
        (
            same, {"mapqc_sample_key": "donor", "mapqc_control_key": "donor", "mapqc_control": "healthy"}, None,
            "has no cell with 'healthy' (mapqc_control) in column 'donor': its values are 'd1', 'd2', 'd3'.",
        ),
        (same, {"var_key": "gene_id"}, None, "has no var column 'gene_id' (var_key): its columns are none."),
        (
            same, {"continuous_covariate_keys": []}, CONTINUOUS,
            "is given 0 continuous_covariate_keys (none) but the model has 1 ('age'): name one column for each.",
        ),
        (
            same, {"categorical_covariate_keys": ["donor"]}, CATEGORICAL,
            "is given 1 categorical_covariate_keys ('donor') but the model has 2 ('chip', 'site'): name one column for each.",
        ),
        (
            with_age("young", "old", "old"), {"continuous_covariate_keys": ["age"]}, CONTINUOUS,
            "has values in column 'age' that are not numbers (such as 'young', 'old'): store it as numbers.",
        ),
        (
            with_age(1.0, np.inf, 2.0), {"continuous_covariate_keys": ["age"]}, CONTINUOUS,
            "has 3 cells whose value in column 'age' is infinite (such as inf): mend these or remove the cells.",
        ),
        (
            with_age(1.0, 0.0, 2.0), {"size_factor_key": "age"}, make_card(size_factor_key="size"),
            "has 3 cells whose value in column 'age' is infinite or not above 0 (such as 0.0): mend these or remove the cells.",
        ),
        (
            same, {"categorical_covariate_keys": ["donor", "donor"]}, CATEGORICAL,
            "is given a column twice in categorical_covariate_keys ('donor', 'donor'): name one column for each of 'chip', 'site'.",
        ),
        (
            with_age(1.0, np.nan, 2.0), {"continuous_covariate_keys": ["age"]}, CONTINUOUS,
            "has 3 of 9 cells without a value in covariate column 'age': fill them or remove these cells.",
        ),
        (same, {"size_factor_key": "sf"}, make_card(size_factor_key="size"), "has no obs column 'sf': its columns are 'donor'."),
        (same, {}, make_card(size_factor_key="size"), "needs size factors, as the model was trained with 'size': set size_factor_key."),
        (same, {"protein_key": "adt"}, PROTEINS, "has no protein data 'adt' (protein_key): its obsm keys and modalities are none."),
    ],
)  # fmt: skip
def test_each_fault(tmp_path, change, row, card, fault):
    adata = make_query(MODEL)
    adata.layers["counts"] = adata.X.copy()
    plan = plan_of(change(adata), tmp_path, card, **row)
    assert f"query 'data/q.h5ad' {fault}" in plan["faults"]


def test_an_empty_batch_is_no_batch(tmp_path):
    """What a table without a value becomes on its way through a CSV."""
    adata = make_query(MODEL)
    adata.obs["donor"] = ["", "d1", "d2"] * 3
    (fault,) = plan_of(adata, tmp_path)["faults"]
    assert "has 3 of 9 cells without a value in batch column 'donor'" in fault


def test_new_levels_of_a_covariate_are_told(tmp_path):
    adata = make_query(MODEL, chip=["v2", "v4", "v3"] * 3)
    card = make_card(categorical_covariates={"chip": ["v2", "v3"]})
    plan = plan_of(adata, tmp_path, card, categorical_covariate_keys=["chip"])
    assert plan["faults"] == [] and plan["covariates"] == {"chip": {"new": ["v4"]}}
    assert any("covariate column 'chip': 'v4' is new to the model" in warning for warning in plan["warnings"])


@pytest.mark.parametrize(("batch_key", "chips", "nothing"), [(None, "v2", True), (None, "v4", False), ("batch", "v2", False)])
def test_a_query_without_anything_that_its_model_could_learn_is_told(tmp_path, batch_key, chips, nothing):
    card = make_card(categorical_covariates={"chip": ["v2", "v3"]}, batch_key=batch_key)
    plan = plan_of(make_query(MODEL, chip=["v3", "v2", chips] * 3), tmp_path, card, categorical_covariate_keys=["chip"])
    told = [warning for warning in plan["warnings"] if "has no category of 'chip' that is new to the model" in warning]
    assert plan["faults"] == [] and len(told) == nothing


def test_what_was_found_of_reference_cells_that_no_row_names_is_a_warning(tmp_path):
    plan = plan_of(make_query(MODEL), tmp_path, known_warnings=["They are empty."])
    assert plan["faults"] == [] and plan["warnings"] == ["They are empty."]


def test_no_protein_of_the_model(tmp_path):
    adata = make_query(MODEL)
    adata.obsm["adt"] = pd.DataFrame({"IgG": np.zeros(9)}, index=adata.obs_names)
    (fault,) = plan_of(adata, tmp_path, PROTEINS)["faults"]
    assert "has none of the model's 2 proteins: it has 'IgG', the model has 'CD3', 'CD4'" in fault


def test_a_batch_to_impute_proteins_for_must_be_the_models(tmp_path):
    card = PROTEINS | {"options": {name: option.to_json() for name, option in PROTEIN_OPTIONS.items()}}
    for given, fault in (("lab_1", []), ("lab_1, lab_2", []), ("lab1", ["lab1"]), ("lab_1,x", ["x"])):
        plan = plan_of(make_query(MODEL), tmp_path, card | {"batches": ["lab_1", "lab_2"]}, options={"protein_batches": given})
        assert [told.split("'")[1] for told in plan["faults"]] == fault


def test_a_query_without_proteins_is_mapped_by_its_genes(tmp_path):
    adata = make_query(MODEL)
    adata.obsm["prot"] = pd.DataFrame({"CD3": np.ones(9)}, index=adata.obs_names)
    plan = plan_of(adata, tmp_path, PROTEINS)
    assert plan["faults"] == [] and plan["query"]["n_proteins_found"] == 0
    assert (
        "query 'data/q.h5ad' has no proteins at 'adt': all 2 of the model are treated as missing. If it has proteins, set "
        "protein_key to where (its obsm keys and modalities are 'prot')."
    ) in plan["warnings"]
    told = plan_of(adata, tmp_path, PROTEINS, protein_key="none")
    assert told["faults"] == []
    assert "query 'data/q.h5ad' has no proteins: all 2 of the model are treated as missing." in told["warnings"]


def test_all_faults_at_once(tmp_path):
    plan = plan_of(
        make_query(["a", "b"]), tmp_path, make_card(size_factor_key="size"),
        layer="counts", batch_key="lane", labels_keys=["type"], truth_key="truth", id_table="ids.csv",
    )  # fmt: skip
    assert [fault.removeprefix("query 'data/q.h5ad' ")[:34] for fault in plan["faults"]] == [
        "has no layer 'counts': set layer t",
        "id_table 'ids.csv' does not exist.",
        "has none of the model's 12 genes: ",
        "has no obs column 'lane': its colu",
        "has no obs column 'type': its colu",
        "has no obs column 'truth': its col",
        "needs size factors, as the model w",
    ]


def test_a_model_or_file_that_cannot_be_used_says_only_that(tmp_path):
    assert check(None, make_row(), make_card(fault="model 'm' is damaged."))["faults"] == ["model 'm' is damaged."]
    assert check(None, make_row(), make_card())["faults"] == ["query file 'data/q.h5ad' does not exist."]
    (tmp_path / "query").write_bytes(b"")
    (fault,) = check(tmp_path / "query", make_row(), make_card())["faults"]
    assert fault.startswith("query 'data/q.h5ad' is empty (0 bytes)")


def test_batches_are_renamed_where_they_collide():
    card = make_card(batches=["a", "b", "b@lung.donor_1"])
    assert name_batches(["a", "b", "c"], make_row(), card) == {"a": "a@lung.donor_1", "b": "b@lung.donor_1-2", "c": "c"}
    both = make_row(one_batch=True)
    assert name_batches(["a", "c"], both, card) == {"a": "lung.donor_1", "c": "lung.donor_1"}
    card = make_card(batches=["lung.donor_1", "lung.donor_1-2"])
    assert name_batches(["a"], both, card) == {"a": "lung.donor_1-3"}
    # A new name may not be that of another of the query's batches either.
    assert name_batches(["r1", "r1@lung.donor_1"], make_row(), make_card()) == {
        "r1": "r1@lung.donor_1-2",
        "r1@lung.donor_1": "r1@lung.donor_1",
    }


def test_a_strategy_that_cannot_be_followed_is_no_fault_of_a_plan(tmp_path):
    """It is known before any training, and whoever wants another strategy has nothing to align again."""
    card = make_card(class_name="SysVI", fixed_batches=True, batches=["d1", "d2", "d3"])
    plans = [plan_of(make_query(MODEL), tmp_path, card, strategy=strategy) for strategy in STRATEGIES]
    for plan, strategy in zip(plans, STRATEGIES, strict=True):
        assert plan["faults"] == [] and plan == plans[0] | {"row": make_row(strategy=strategy)}
    assert set(plans[0]["refused"]) == {"per_batch", "sequential"}
    assert faults_of(plans[0], "joint") == [] and faults_of(plans[0], "per_batch") == [
        "strategy 'per_batch' is not for query 'data/q.h5ad', as surgery on a SysVI model learns no batches: set strategy to joint."
    ]
    together = plan_of(make_query(MODEL), tmp_path, card | {"fixed_batches": False}, one_batch=True)
    assert together["refused"] == {}


def test_one_batch_needs_no_column(tmp_path):
    plan = plan_of(make_query(MODEL), tmp_path, batch_key=None, one_batch=True)
    assert plan["faults"] == [] and plan["batches"] == {"lung.donor_1": {"cells": 9, "name": "lung.donor_1"}}


def test_warnings(tmp_path):
    adata = make_query(MODEL[:8], type=["B", "odd", "strange"] * 3, all=["B"] * 9)
    card = make_card(labels={"cell_type": ["B"]}, unlabeled_category="Unknown", warnings=["The model is old."])
    plan = plan_of(
        adata,
        tmp_path,
        card,
        labels_keys=["type"],
        truth_key="type",
        umap_colors=["donor", "phase", "cell_type_predicted"],
    )
    assert plan["faults"] == []
    assert plan["warnings"] == [
        "The model is old.",
        "query 'data/q.h5ad' has 8 of the model's 12 genes (66.7%, less than 80%): the others are filled with zeros.",
        "labels_key and truth_key are both 'type': the accuracy is that on labels which the model was given.",
        "query 'data/q.h5ad', labels column 'type': 6 cells have labels that the model does not know ('odd', 'strange'), and are taken as unlabeled.",
        "query 'data/q.h5ad' has no obs column for umap_colors 'phase': left out of the plots.",
    ]
    assert "every cell is labeled" in plan_of(adata, tmp_path, card, labels_keys=["all"])["warnings"][-1]
    assert (
        "no cell has a label"
        in plan_of(adata, tmp_path, card | {"labels": {"cell_type": ["T"]}}, labels_keys=["all"])["warnings"][-1]
    )
    assert "trained without batches" in plan_of(adata, tmp_path, make_card(batch_key=None))["warnings"][-1]


@pytest.mark.parametrize("key", [None, "doner"])
def test_a_model_without_batches_needs_no_batch_column(tmp_path, key):
    plan = plan_of(make_query(MODEL), tmp_path, make_card(batch_key=None), batch_key=key)
    assert (plan["faults"], plan["batches"], plan["batch_column"]) == ([], {}, None)
    told = "query 'data/q.h5ad' has no obs column 'doner', which batch_key names: all of its cells are taken as one batch."
    assert plan["warnings"] == [told] * bool(key)


def test_command_keeps_the_faults_in_the_plan(tmp_path, in_one_process):
    make_query(MODEL).write_h5ad(tmp_path / "query")
    (tmp_path / "row").write_text(json.dumps(make_row(batch_key="lane")))
    (tmp_path / "card").write_text(json.dumps(make_card()))
    files = ("row", "card", "plan", "output", "mapped")
    options = [word for name in files for word in (f"--{name}", str(tmp_path / name))]

    result = CliRunner().invoke(align_genes, [*options, "--query", str(tmp_path / "query")], catch_exceptions=False)
    assert result.exit_code == 0
    plan = json.loads((tmp_path / "plan").read_text())
    assert plan["query"]["n_cells"] == 9 and len(plan["faults"]) == 1
    assert result.stderr == f"lung/donor_1: fault: {plan['faults'][0]}\n"

    result = CliRunner().invoke(align_genes, options, catch_exceptions=False)
    assert json.loads((tmp_path / "plan").read_text())["faults"] == ["query file 'data/q.h5ad' does not exist."]


# ------------------------------------------------------------------------------------------------ options and further labels

OPTIONS = {
    "shots": Option("int", 1, "How many.", least=0).to_json(),
    "groups": Option("column", None, "Which.").to_json(),
    "deep": Option("flag", False, "Whether.").to_json(),
}


def test_options_are_typed_and_filled_in(tmp_path):
    card = make_card(options=OPTIONS)
    plan = plan_of(make_query(MODEL), tmp_path, card, options={"deep": "true", "groups": "donor"})
    assert (plan["faults"], plan["options"]) == ([], {"shots": 1, "groups": "donor", "deep": True})


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"shot": "2"}, "there is no option 'shot' for SCVI models: it takes shots, groups, deep. Did you mean 'shots'?"),
        ({"shots": "-1"}, "option 'shots' is '-1', but must be a whole number of 0 or more."),
        ({"shots": "1.5"}, "option 'shots' is '1.5', but must be a whole number of 0 or more."),
        ({"deep": "yes"}, "option 'deep' is 'yes', but must be true or false."),
        ({"groups": "doner"}, "query 'data/q.h5ad' has no obs column 'doner': its columns are 'donor'. Did you mean 'donor'?"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, fault):
    assert plan_of(make_query(MODEL), tmp_path, make_card(options=OPTIONS), options=options)["faults"] == [fault]


def test_every_wrong_option_is_told(tmp_path):
    faults = plan_of(make_query(MODEL), tmp_path, make_card(options={}), options={"a": "1", "b": "2"})["faults"]
    assert faults == [f"there is no option '{name}' for SCVI models: it takes none." for name in "ab"]


def test_more_label_columns_than_the_model_has(tmp_path):
    adata = make_query(MODEL, a=["x"] * 9, b=["y"] * 9)
    plan = plan_of(adata, tmp_path, make_card(labels={"type": ["x"]}), labels_keys=["a", "b"])
    assert plan["faults"] == [
        "query 'data/q.h5ad' is given the labels columns 'a', 'b' but the model has 'type': name at most one for each."
    ]


def test_new_labels_are_told_as_learned_where_the_model_takes_them(tmp_path):
    adata = make_query(MODEL, type=["B"] * 5 + ["Martian"] * 4)
    card = make_card(labels={"type": ["B"]}, unlabeled_category="Unknown", predicts=False, takes_new_labels=True)
    (warning,) = plan_of(adata, tmp_path, card, labels_keys=["type"])["warnings"]
    assert "4 cells have labels that the model does not know ('Martian'), and are taken as new" in warning


def test_programs_for_a_model_that_takes_none(tmp_path):
    plan = plan_of(make_query(MODEL), tmp_path, gmt="hallmarks.gmt")
    assert plan["warnings"] == ["The model learns no gene programmes: gmt 'hallmarks.gmt' is not used."]
    plan = plan_of(make_query(MODEL), tmp_path, make_card(takes_gmt=True), gmt="hallmarks.gmt")
    assert plan["faults"] == ["gmt 'hallmarks.gmt' does not exist."]


def test_labels_that_a_model_makes_no_use_of(tmp_path):
    adata = make_query(MODEL, type=["B"] * 9)
    card = make_card(class_name="SageNet", labels={"type": ["B"]}, unlabeled_category="Unknown", learns_labels=False)
    plan = plan_of(adata, tmp_path, card, labels_keys=["type"], truth_key="type")
    assert plan["warnings"] == ["SageNet makes no use of a query's labels: labels_key 'type' of query 'data/q.h5ad' is not used."]


def test_no_accuracy_is_doubted_where_the_model_predicts_nothing(tmp_path):
    adata = make_query(MODEL, type=["B"] * 9)
    card = make_card(labels={"type": ["B"]}, unlabeled_category="Unknown", predicts=False, takes_new_labels=True)
    assert plan_of(adata, tmp_path, card, labels_keys=["type"], truth_key="type")["warnings"] == []


def test_columns_that_the_mapping_adds_can_colour_the_pictures(tmp_path):
    hierarchy = {"labels_key": "type", "below": {"takes_new_labels": False}}
    card = make_card(labels={"type": ["B"]}, adds=["prototype"], hierarchy=hierarchy)
    colors = ["prototype", "type_predicted", "type_tree_predicted", "nothing"]
    (warning,) = plan_of(make_query(MODEL), tmp_path, card, umap_colors=colors)["warnings"]
    assert "has no obs column for umap_colors 'nothing'" in warning
