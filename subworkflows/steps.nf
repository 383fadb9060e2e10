// The steps of aligned mappings, from surgery to the figures

include { TRAIN_SURGERY    } from '../modules/train_surgery'
include { UPDATE_HIERARCHY } from '../modules/update_hierarchy'
include { EXPORT_EMBEDDING } from '../modules/export_embedding'

include { asTask ; goingOn ; leftAlone ; settled } from '../modules/bundles'
include { alignedSize                            } from '../modules/functions'

// Takes bundles of records with plan, prepared and size; those that brought their embedding with mapped. Emits records, as far as
// they came
//   trained   with mapped, updated
//   exported  with exported, and h5ad where it is asked for
//   judged    with qc
// and of what was found on the way
//   left      those that were killed beside others in a task, each as a bundle
//   passed    [id, a step that it passed]
//   faults    a file each
workflow STEPS {
    take:
    bundles
    references
    settings
    code

    main:
    // A query that brings its embedding needs no surgery
    prepared = bundles.branch { all ->
        embedded: all[0].row.query_embedding
        fresh: true
    }

    // How much is trained on is known of the aligned queries alone
    fresh = prepared.fresh.map { all -> all.collect { m -> m + [size: alignedSize(m.prepared.resolve('aligned.zarr'), m.row.train?.max_epochs, m.most_in_memory)] } }
    TRAIN_SURGERY(fresh.map { all -> toTrain(all) }, code)
    surgery = settled(fresh, TRAIN_SURGERY.out.results, [mapped: '', updated: ''])

    // The labels' hierarchy, where there is one, takes the query in; the model is not done before that
    models = goingOn(surgery).branch { all ->
        hierarchical: all[0].hierarchical
        done: true
    }
    UPDATE_HIERARCHY(
        models.hierarchical.map { all -> asTask(all) { m -> m.subMap(['plan', 'prepared', 'mapped']) + [updated_model: m.updated] } + [all[0].model, all[0].card] },
        code,
    )
    placed = settled(models.hierarchical, UPDATE_HIERARCHY.out.results, [mapped: '', updated: ''])
    trained = models.done.mix(goingOn(placed))

    // Beside the cells of its reference, where these have set a scale; a row that names cells itself is not done without
    scaled = trained.mix(prepared.embedded).branch { all ->
        near: all[0].reference_cells.source
        alone: true
    }
    placeable = scaled.near
        .map { all -> [all[0].reference, all] }
        .combine(references, by: 0)
        .map { _reference, all, scale -> withScale(all, scale) }
        .filter { all -> all[0].scale || !all[0].row.cells.reference }
        .mix(scaled.alone.map { all -> withScale(all, []) })
    EXPORT_EMBEDDING(
        placeable.map { all -> toExport(all) },
        settings.subMap(['unknown_by', 'unknown_certainty', 'unknown_threshold', 'transfer_probabilities', 'output_format']),
        code,
    )
    written = settled(placeable, EXPORT_EMBEDDING.out.exported, [exported: '.zarr', h5ad: '.h5ad'])
    described = settled(placeable, EXPORT_EMBEDDING.out.results, [qc: '', mapped: ''])
    ended = surgery.mix(placed, described)

    emit:
    trained = trained.flatMap()
    exported = goingOn(written).flatMap()
    judged = goingOn(described).flatMap().filter { m -> m.qc }
    left = leftAlone(ended)
    passed = passing(surgery, 'TRAIN_SURGERY').mix(
        passed(prepared.embedded, 'TRAIN_SURGERY'), passing(placed, 'UPDATE_HIERARCHY'), passing(written, 'EXPORT_EMBEDDING'),
    )
    faults = ended.flatMap { step -> step.faults }
}

// What TRAIN_SURGERY takes
def toTrain(all) {
    return asTask(all) { m -> m.subMap(['plan', 'prepared']) + [training: ofTraining(m.row)] } + [all[0].env, all[0].model, all[0].card]
}

// What EXPORT_EMBEDDING takes
def toExport(all) {
    return asTask(all) { m -> m.subMap(['plan', 'query', 'obs_table', 'prepared', 'mapped']) + [correction: m.row.correction] } + [all[0].scale]
}

// With the scale that the reference's cells set; [] where there are none, or they could not be embedded
def withScale(all, scale) {
    return all.collect { m -> m + [scale: scale] }
}

// What surgery alone needs of a row. The seed of one that needs no surgery is for what comes after it
def ofTraining(row) {
    return row.subMap(['train', 'freeze_dropout', 'strategy', 'engine'] + (row.query_embedding ? [] : ['seed']))
}

// [id, the step], of all that passed it
def passing(bundles, step) {
    return passed(goingOn(bundles), step)
}

def passed(bundles, step) {
    return bundles.flatMap { all -> all.collect { m -> [m.id, step] } }
}
