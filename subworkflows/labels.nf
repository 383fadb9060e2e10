// What the reference's cells say of a mapping's

include { TRANSFER_LABELS    } from '../modules/transfer_labels'
include { COMPARE_EXPRESSION } from '../modules/compare_expression'

include { asTask ; goingOn ; settled } from '../modules/bundles'

// Takes bundles of records with prepared and mapped, and [reference, the scale that its cells set, [] where they could not be embedded].
// Emits
//   bundles   the records with what was found in mapped, and with scale; those without reference cells as they are, with scale []
//   ended     what became of bundles in each step
//   passed    [id, a step that it passed]
workflow LABELS {
    take:
    trained
    references
    settings
    code

    main:
    // The mappings of a bundle have one reference
    known = trained.branch { all ->
        near: all[0].reference_cells.source
        alone: true
    }
    scaled = known.near
        .map { all -> [all[0].reference, all] }
        .combine(references, by: 0)
        .map { _reference, all, scale -> all.collect { m -> m + [scale: scale] } }
        .branch { all ->
            near: all[0].scale
            alone: !all[0].row.cells.reference
        }
    TRANSFER_LABELS(
        scaled.near.map { all -> asTask(all) { m -> m.subMap(['plan', 'prepared', 'mapped']) + [correction: m.row.correction] } + [all[0].scale] },
        settings.subMap(['unknown_threshold', 'transfer_probabilities']),
        code,
    )
    transferred = settled(scaled.near, TRANSFER_LABELS.out.results, [mapped: ''])

    // What the cells' expression says of them, where there is one, and that of the reference's is known too
    labels = goingOn(transferred).flatMap { all -> all.groupBy { m -> m.counted }.values() }.branch { all ->
        counted: all[0].counted && all[0].scale.resolve('sample.zarr').exists()
        alone: true
    }
    COMPARE_EXPRESSION(
        labels.counted.map { all -> asTask(all) { m -> m.subMap(['plan', 'prepared', 'mapped']) } + [all[0].scale] },
        settings.subMap(['unknown_by', 'unknown_certainty', 'unknown_threshold']),
        code,
    )
    compared = settled(labels.counted, COMPARE_EXPRESSION.out.results, [mapped: ''])
    labelled = goingOn(compared).mix(labels.alone, scaled.alone, known.alone.map { all -> all.collect { m -> m + [scale: []] } })

    emit:
    bundles = labelled
    ended = transferred.mix(compared)
    passed = transferred.flatMap { of -> of.done.collect { m -> [m.id, 'TRANSFER_LABELS'] } }
        .mix(labelled.flatMap { all -> all.collect { m -> [m.id, 'COMPARE_EXPRESSION'] } })
}
