// What a process is given in a run, made from the demo by the processes before it: for the specs of those that come late.
// Where no family is named, nothing is trained, which would take long: the reference is one by its description alone, and what
// surgery gives is drawn at random.

include { MAKE_DEMO           } from '../modules/make_demo'
include { CHECK_INPUT         } from '../modules/check_input'
include { ALIGN_REFERENCE     } from '../modules/align_reference'
include { TRAIN_REFERENCE     } from '../modules/train_reference'
include { LEARN_HIERARCHY     } from '../modules/learn_hierarchy'
include { INSPECT_MODEL       } from '../modules/inspect_model'
include { PREPARE_REFERENCE   } from '../modules/prepare_reference'
include { CALIBRATE_REFERENCE } from '../modules/calibrate_reference'
include { CHECK_QUERY         } from '../modules/check_query'
include { ALIGN_GENES         } from '../modules/align_genes'
include { TRAIN_SURGERY       } from '../modules/train_surgery'
include { TRANSFER_LABELS     } from '../modules/transfer_labels'

include { alignedSize ; located ; parse ; size ; toJson ; together ; training ; withoutTraining } from '../modules/functions'

// A model that can be inspected, of the atlas's genes, batches and labels; its weights are no tensors
process MAKE_MODEL {
    input:
    path atlas

    output:
    path 'reference_model'

    script:
    """
    #!/usr/bin/env python
    import pickle
    import zipfile
    from pathlib import Path

    import anndata
    import numpy as np

    atlas = anndata.read_h5ad("${atlas}")
    fields = {}
    for name, column in {"batch": "batch", "labels": "bulk_labels"}.items():
        values = np.array(atlas.obs[column].cat.categories, dtype=object)
        fields[name] = {"state_registry": {"original_key": column, "categorical_mapping": values}}
    registry = {
        "scvi_version": "1.0.4",
        "model_name": "SCVI",
        "setup_method_name": "setup_anndata",
        "setup_args": {"batch_key": "batch"},
        "field_registries": fields,
    }
    ready = {"model_kwargs": {"encode_covariates": True}}  # for surgery
    model = {
        "model_state_dict": dict.fromkeys(["z_encoder.x", "px_r"], 0),
        "var_names": np.array(atlas.var_names, dtype=object),
        "attr_dict": {"registry_": registry, "init_params_": {"kwargs": ready, "non_kwargs": {}}},
    }
    Path("reference_model").mkdir()
    with zipfile.ZipFile("reference_model/model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(model, 2))
    """
}

// The atlas's cells with an embedding in 10 dimensions, in which the cell types lie apart; and that embedding alone
process MAKE_CELLS {
    input:
    path atlas

    output:
    path 'cells.zarr', emit: cells
    path 'latent.npy', emit: latent

    script:
    """
    #!/usr/bin/env python
    import anndata
    import numpy as np

    cells = anndata.read_h5ad("${atlas}")
    rng = np.random.default_rng(0)
    types = cells.obs["bulk_labels"].cat
    latent = 2 * rng.normal(size=(len(types.categories), 10))[types.codes] + rng.normal(size=(cells.n_obs, 10))
    cells.obsm["X_atlas"] = latent.astype("float32")
    np.save("latent.npy", cells.obsm["X_atlas"])
    with anndata.settings.override(zarr_write_format=2):
        cells.write_zarr("cells.zarr")
    """
}

// What TRAIN_SURGERY gives for a prepared query
process MAKE_MAPPED {
    input:
    tuple val(meta), path(prepared), path(card)

    output:
    tuple val(meta), path("mapped/${meta.id}")

    script:
    """
    #!/usr/bin/env python
    import json
    from pathlib import Path

    import anndata
    import numpy as np
    import pandas as pd

    query = anndata.read_zarr("${prepared}/aligned.zarr")
    rng = np.random.default_rng(0)
    labels = ["CD4+/CD25 T Reg", "Dendritic"]
    card = json.loads(Path("${card}").read_text())
    model = {"model": card["model"], "family": card["family"], "class_name": card["class_name"], "model_sha256": card["sha256"]}
    obs = {
        "bulk_labels_predicted": pd.Categorical(rng.choice(labels, query.n_obs), categories=labels),
        "bulk_labels_predicted_uncertainty": rng.uniform(0, 0.5, query.n_obs),
    }
    mapped = anndata.AnnData(
        obs=pd.DataFrame(obs, index=query.obs_names),
        obsm={"X_emb": rng.normal(size=(query.n_obs, 10)).astype("float32")},
        uns={"refmap": model, "bulk_labels_classes": np.array(labels, dtype=object)},
    )
    folder = Path("mapped/${meta.id}")
    (folder / "results").mkdir(parents=True)
    with anndata.settings.override(zarr_write_format=2):
        mapped.write_zarr(folder / "embedding.zarr")
    record = model | {
        "n_cells": query.n_obs,
        "batches": {"reference": 2, "new": []},
        "train": {"epochs": 1, "seconds": 1.5},
        "device": "cpu",
        "seed": 0,
        "versions": {"refmap": "0.1.0"},
        "predictions": {"bulk_labels": {"mean_uncertainty": 0.25}},
        "warnings": [],
    }
    (folder / "mapping.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text("epoch,elbo_train\\n1,2.5\\n")
    """
}

// The demo's sheet as rows, its atlas, and what a reference of a family is trained with
workflow CHECKED_INPUT {
    take:
    family

    main:
    settings = params.findAll { name, _value -> name.startsWith('reference') || name == 'seed' } +
        [family: family ?: 'scanvi', reference_batch_key: 'batch', reference_labels_key: 'bulk_labels', reference_max_epochs: 2]
    MAKE_DEMO(0, 'code')
    schema = file("${projectDir}/nextflow_schema.json")
    CHECK_INPUT(MAKE_DEMO.out.sheet, toJson(settings + [demo: true, max_epochs: 2]), schema, 'code')

    emit:
    sheet = MAKE_DEMO.out.sheet
    atlas = MAKE_DEMO.out.atlas.map { atlas -> [atlas, ''] }
    rows = CHECK_INPUT.out.mappings
    trainer = CHECK_INPUT.out.trainer.map { path -> path.text.trim() }
    settings = toJson(settings)
}

// The rows and the reference that they are mapped onto; mappings: [meta, row, query, id table]
workflow REFERENCE {
    take:
    family

    main:
    CHECKED_INPUT(family)
    settings = CHECKED_INPUT.out.settings
    if (family) {
        ALIGN_REFERENCE(CHECKED_INPUT.out.atlas, settings, 'code')
        aligned = ALIGN_REFERENCE.out.aligned.combine(CHECKED_INPUT.out.trainer)
        hierarchical = family == 'treearches'
        TRAIN_REFERENCE(aligned.map { atlas, facts, env -> [atlas, facts, [], env, hierarchical, alignedSize(atlas, 2)] }, 'code')
        model = TRAIN_REFERENCE.out.model
    } else {
        model = MAKE_MODEL(CHECKED_INPUT.out.atlas.map { atlas, _stamp -> atlas })
    }
    if (family == 'treearches') {
        model = LEARN_HIERARCHY(model.combine(TRAIN_REFERENCE.out.embedding), settings, 'code')
    }
    INSPECT_MODEL(model.map { path -> ['the reference', path, ''] }, 'code')
    card = INSPECT_MODEL.out.card.map { _name, path -> path }
    mappings = CHECKED_INPUT.out.rows
        .splitText { line -> line.trim() }
        .combine(CHECKED_INPUT.out.sheet)
        .combine(card)
        .map { line, sheet, path ->
            def (row, kind) = [parse(line), parse(path.text)]
            def id = "${row.dataset}~${row.file_id}".toString()
            def names = [id: id, dataset: row.dataset, file_id: row.file_id]
            def meta = names + [family: kind.family, env: kind.env, hierarchy: kind.hierarchy != null]
            [meta, row, located(row.query, sheet), located(row.id_table, sheet)]
        }

    emit:
    rows = CHECKED_INPUT.out.rows
    atlas = CHECKED_INPUT.out.atlas.map { atlas, _stamp -> atlas }
    model = model
    card = card
    mappings = mappings
}

// The plan of every mapping: [meta, size, plan, query, id table, gmt, card]
workflow PLANNED {
    take:
    family

    main:
    REFERENCE(family)
    CHECK_QUERY(
        REFERENCE.out.mappings.combine(REFERENCE.out.card).map { meta, row, query, table, card ->
            [meta, withoutTraining(row), query, table, [], '', card]
        },
        'code',
    )
    planned = CHECK_QUERY.out.plan
        .join(REFERENCE.out.mappings)
        .combine(REFERENCE.out.card)
        .map { meta, plan, _row, query, table, card -> [meta, size(parse(plan.text)), plan, query, table, [], card] }

    emit:
    rows = REFERENCE.out.rows
    atlas = REFERENCE.out.atlas
    model = REFERENCE.out.model
    card = REFERENCE.out.card
    mappings = REFERENCE.out.mappings
    planned = planned
}

// The mappings of these ids ready for surgery, and as one task of it
workflow PREPARED {
    take:
    family
    ids

    main:
    PLANNED(family)
    planned = PLANNED.out.planned.filter { item -> item[0].id in ids }
    ALIGN_GENES(planned, 'code')
    members = planned
        .join(ALIGN_GENES.out.prepared)
        .join(PLANNED.out.mappings.map { meta, row, _query, _table -> [meta, training(row)] })
        .combine(PLANNED.out.model)
        .map { meta, _size, _plan, _query, _table, _gmt, card, prepared, training, model ->
            def size = alignedSize(prepared.resolve('aligned.zarr'), training.train.max_epochs)
            [meta: meta, size: size, training: training, prepared: prepared, model: model, card: card]
        }

    emit:
    rows = PLANNED.out.rows
    atlas = PLANNED.out.atlas
    card = PLANNED.out.card
    plans = PLANNED.out.planned.map { item -> item[2] }
    planned = planned
    prepared = ALIGN_GENES.out.prepared
    task = members.toList().map { all -> together(all) }
}

// One mapping after surgery: [meta, size, plan, query, prepared, mapped]; with a family, also the updated model
workflow MAPPED {
    take:
    family
    id

    main:
    PREPARED(family, [id])
    if (family) {
        TRAIN_SURGERY(PREPARED.out.task, 'code')
        mapped = PREPARED.out.prepared.combine(TRAIN_SURGERY.out.mapped).map { meta, _prepared, path -> [meta, path] }
        updated = TRAIN_SURGERY.out.model
    } else {
        mapped = MAKE_MAPPED(PREPARED.out.prepared.combine(PREPARED.out.card))
        updated = Channel.empty()
    }

    emit:
    rows = PREPARED.out.rows
    atlas = PREPARED.out.atlas
    card = PREPARED.out.card
    plans = PREPARED.out.plans
    model = PREPARED.out.task.map { item -> item[4] }
    mapped = PREPARED.out.planned
        .map { meta, size, plan, query, _table, _gmt, _card -> [meta, size, plan, query] }
        .join(PREPARED.out.prepared)
        .join(mapped)
    updated = updated
}

// One mapping after surgery, and the cells of its reference, which are embedded already: what MAPPED gives and their folder
workflow NEAR {
    take:
    id

    main:
    MAPPED(null, id)
    MAKE_CELLS(MAPPED.out.atlas)
    request = [reference: 'cells.zarr', layer: 'X', var_key: null, embedding: 'X_atlas', transfer_keys: ['bulk_labels']]
    PREPARE_REFERENCE(
        MAKE_CELLS.out.cells.combine(MAPPED.out.card).map { cells, card -> [['the reference', toJson(request)], cells, [], '', card] },
        'code',
    )
    CALIBRATE_REFERENCE(PREPARE_REFERENCE.out.prepared.map { key, prepared -> [key, prepared, []] }, 'code')
    cells = CALIBRATE_REFERENCE.out.reference.map { _key, reference -> reference }

    emit:
    mapped = MAPPED.out.mapped.combine(cells)
}

// The same with the labels of these cells: [meta, size, plan, query, prepared, labelled, what it was before, reference]
workflow LABELLED {
    take:
    id

    main:
    NEAR(id)
    TRANSFER_LABELS(
        NEAR.out.mapped.map { meta, size, plan, _query, _prepared, mapped, reference -> [meta, size, plan, mapped, reference] },
        'code',
    )

    emit:
    mapped = NEAR.out.mapped
        .join(TRANSFER_LABELS.out.mapped)
        .map { meta, size, plan, query, prepared, mapped, reference, labelled ->
            [meta, size, plan, query, prepared, labelled, mapped, reference]
        }
}
