// What the reference's cells say of a mapping's

include { TRANSFER_LABELS    } from '../modules/transfer_labels'
include { COMPARE_EXPRESSION } from '../modules/compare_expression'

include { put } from '../modules/functions'

// Takes records with prepared and mapped, and [reference, the scale that its cells set, [] where they could not be embedded]. Emits
//   mappings  the records with what was found in mapped, and with scale; those without reference cells as they are, with scale []
//   passed    [id, a step that it passed]
//   faults    a file each
workflow LABELS {
    take:
    mappings
    references
    settings
    code

    main:
    known = mappings.branch { m ->
        near: m.reference_cells.source
        alone: true
    }
    scaled = put(known.near, 'scale', references, 'reference').branch { m ->
        near: m.scale
        alone: !m.row.cells.reference
    }
    TRANSFER_LABELS(
        scaled.near.map { m -> [m.id, m.size, m.plan, m.mapped, m.scale] },
        settings.subMap(['unknown_threshold', 'transfer_probabilities']),
        code,
    )

    // What the cells' expression says of them, where that of the reference's is known too
    transferred = put(scaled.near, 'mapped', TRANSFER_LABELS.out.mapped).branch { m ->
        counted: m.scale.resolve('sample.zarr').exists()
        alone: true
    }
    COMPARE_EXPRESSION(
        transferred.counted.map { m -> [m.id, m.size, m.plan, m.prepared, m.mapped, m.scale] },
        settings.subMap(['unknown_by', 'unknown_certainty', 'unknown_threshold']),
        code,
    )
    labelled = put(transferred.counted, 'mapped', COMPARE_EXPRESSION.out.mapped)
        .mix(transferred.alone, scaled.alone, known.alone.map { m -> m + [scale: []] })

    emit:
    mappings = labelled
    passed = transferred.counted.mix(transferred.alone).map { m -> [m.id, 'TRANSFER_LABELS'] }
        .mix(labelled.map { m -> [m.id, 'COMPARE_EXPRESSION'] })
    faults = TRANSFER_LABELS.out.fault.mix(COMPARE_EXPRESSION.out.fault)
}
