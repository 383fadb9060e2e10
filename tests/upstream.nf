// What a process is given in a run, made from the demo by the processes before it: for the specs of those that come late.
// Where no family is named, nothing is trained, which would take long: the reference is one by its description alone, and what
// surgery gives is drawn at random. A mapping is a record, as in main.nf, with what the steps up to that workflow put into it.

include { SHEET               } from '../subworkflows/sheet'
include { REFERENCE           } from '../subworkflows/reference'

include { INSPECT_MODEL       } from '../modules/inspect_model'
include { PREPARE_REFERENCE   } from '../modules/prepare_reference'
include { CALIBRATE_REFERENCE } from '../modules/calibrate_reference'
include { ALIGN_GENES         } from '../modules/align_genes'
include { TRAIN_SURGERY       } from '../modules/train_surgery'
include { EXPORT_EMBEDDING    } from '../modules/export_embedding'

include { toAlign                            } from '../subworkflows/mapping'
include { toExport ; toTrain                 } from '../subworkflows/steps'
include { goingOn ; settled                  } from '../modules/bundles'
include { alignedSize ; parse ; put ; toJson } from '../modules/functions'
include { parameters                         } from '../modules/parameters'

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
    path 'latent.npz', emit: latent

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
    np.savez("latent.npz", X_emb=cells.obsm["X_atlas"])
    with anndata.settings.override(zarr_write_format=2):
        cells.write_zarr("cells.zarr")
    """
}

// What TRAIN_SURGERY gives for a prepared query
process MAKE_MAPPED {
    input:
    tuple val(id), path(prepared), path(card)

    output:
    tuple val(id), path("mapped/${id}")

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
    folder = Path("mapped/${id}")
    (folder / "results").mkdir(parents=True)
    with anndata.settings.override(zarr_write_format=2):
        mapped.write_zarr(folder / "embedding.zarr")
    dataset, file_id = "${id}".split("~")
    record = model | {
        "id": "${id}",
        "dataset": dataset,
        "file_id": file_id,
        "parameters": {"batch_key": "batch"},
        "n_cells": query.n_obs,
        "batches": {"reference": 2, "new": []},
        "train": {"epochs": 1, "seconds": 1.5},
        "device": "cpu",
        "seed": 0,
        "versions": {"refmap": "0.1.0"},
        "predictions": {"bulk_labels": {"mean_uncertainty": 0.25}},
        "hshare": None,
        "surgery_moves": True,
        "warnings": [],
    }
    (folder / "mapping.json").write_text(json.dumps(record))
    (folder / "history.csv").write_text("epoch,elbo_train\\n1,2.5\\n")
    """
}

// The parameters of a run of the demo with a family, of short trainings; nf-test's own is not one of refmap's
def settingsOf(family) {
    return parameters().findAll { name, _value -> name != 'nf_test_output' } + [
        demo: true, family: family ?: 'scanvi', max_epochs: 2,
        reference_batch_key: 'batch', reference_labels_key: 'bulk_labels', reference_max_epochs: 2,
    ]
}

// The demo's mappings, its atlas, and what a reference of a family is trained with
workflow DEMO {
    take:
    family

    main:
    SHEET(settingsOf(family), 'code')

    emit:
    mappings = SHEET.out.mappings
    atlas = SHEET.out.atlas
    trainer = SHEET.out.trainer
    training = toJson(settingsOf(family))
}

// The demo's mappings with model, card, env and most_in_memory; their cells are those of the atlas
workflow INSPECTED {
    take:
    family

    main:
    DEMO(family)
    if (family) {
        REFERENCE(DEMO.out.atlas, DEMO.out.trainer, settingsOf(family), 'code')
        model = REFERENCE.out.model
    } else {
        model = MAKE_MODEL(DEMO.out.atlas)
    }
    INSPECT_MODEL(model.map { path -> ['the reference', path, '', '', ''] }, settingsOf(family), 'code')

    emit:
    mappings = DEMO.out.mappings
        .combine(DEMO.out.atlas)
        .combine(model)
        .combine(INSPECT_MODEL.out.card)
        .map { m, atlas, path, _name, card -> m + [cells: atlas, model: path, card: card] + parse(card.text).subMap(['env', 'most_in_memory']) }
}

// Those of these ids with plan, prepared and size
workflow PREPARED {
    take:
    family
    ids

    main:
    INSPECTED(family)
    asked = INSPECTED.out.mappings.filter { m -> m.id in ids }.map { m -> [m + [reference_cells: [:]]] }
    ALIGN_GENES(asked.map { all -> toAlign(all) }, 'code')

    emit:
    mappings = goingOn(settled(asked, ALIGN_GENES.out.results, [prepared: '', plan: '.plan.json'])).flatMap()
        .map { m -> m + [size: alignedSize(m.prepared.resolve('aligned.zarr'), m.row.train?.max_epochs, m.most_in_memory)] }
}

// The same as what one task of surgery takes
workflow BUNDLED {
    take:
    family
    ids

    main:
    PREPARED(family, ids)

    emit:
    bundle = PREPARED.out.mappings.toList().map { all -> toTrain(all) }
}

// The same with mapped; where a family is named, with updated
workflow MAPPED {
    take:
    family
    ids

    main:
    PREPARED(family, ids)
    if (family) {
        prepared = PREPARED.out.mappings.map { m -> [m] }
        TRAIN_SURGERY(prepared.map { all -> toTrain(all) }, 'code')
        mappings = goingOn(settled(prepared, TRAIN_SURGERY.out.results, [mapped: '', updated: ''])).flatMap()
    } else {
        MAKE_MAPPED(PREPARED.out.mappings.map { m -> [m.id, m.prepared, m.card] })
        mappings = put(PREPARED.out.mappings, 'mapped', MAKE_MAPPED.out)
    }

    emit:
    mappings
}

// One mapping with mapped and scale, which the atlas's cells set, with an embedding that they came with
workflow NEAR {
    take:
    id

    main:
    MAPPED(null, [id])
    MAKE_CELLS(MAPPED.out.mappings.map { m -> m.cells })
    request = [trained: false, reference: 'cells.zarr', layer: 'X', batch_key: null, var_key: null, airr: null, embedding: 'X_atlas', protein_key: null, origin: null, columns: [], transfer_keys: ['bulk_labels']]
    near = MAPPED.out.mappings.map { m -> m + [reference: [model: 'the reference', request: toJson(request)]] }
    PREPARE_REFERENCE(near.combine(MAKE_CELLS.out.cells).map { m, cells -> [m.reference, cells, [], [], '', m.card] }, 'code')
    CALIBRATE_REFERENCE(PREPARE_REFERENCE.out.prepared.map { reference, cells -> [reference, cells, []] }, settingsOf(null), 'code')

    emit:
    mappings = put(near, 'scale', CALIBRATE_REFERENCE.out.reference, 'reference')
}

// The same with labels in mapped, and with qc
workflow DESCRIBED {
    take:
    id

    main:
    NEAR(id)
    near = NEAR.out.mappings.map { m -> [m] }
    EXPORT_EMBEDDING(near.map { all -> toExport(all) }, settingsOf(null), 'code')

    emit:
    mappings = goingOn(settled(near, EXPORT_EMBEDDING.out.results, [qc: '', mapped: ''])).flatMap()
}
