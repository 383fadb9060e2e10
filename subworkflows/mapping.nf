// The way of a mapping, from its query to what is known of it in the end

include { CHECK_QUERY      } from '../modules/check_query'
include { ALIGN_GENES      } from '../modules/align_genes'
include { UPDATE_HIERARCHY } from '../modules/update_hierarchy'
include { EXPORT_EMBEDDING } from '../modules/export_embedding'
include { QC_MAPPING       } from '../modules/qc_mapping'

include { LABELS                              } from './labels'
include { SURGERY ; bundled ; withoutTraining } from './surgery'

include { parse ; put ; querySize ; stamp ; toJson } from '../modules/functions'

// Emits records, as far as they came
//   checked   with plan and faults: all of them
//   trained   with prepared, mapped, updated
//   exported  with exported
//   copied    with h5ad, where it is asked for
//   judged    with qc
// and of what was found on the way
//   passed    [id, a step that it passed]
//   faults    a file each
workflow MAPPING {
    take:
    mappings
    references
    settings
    code

    main:
    CHECK_QUERY(
        mappings.map { m ->
            // Where there are cells, the report says once what is to be said of them
            def told = m.reference_cells.source ? [] : (m.reference_cells.warnings ?: [])
            def row = withoutTraining(m.row) + [known_faults: [m.untried, m.unfetched ?: m.reference_cells.fault].findAll(), known_warnings: told]
            [m.id, toJson(row.sort()), m.query, m.obs_table, m.id_table, m.gmt, m.airr, stamp(m.query), m.card]
        },
        code,
    )
    checked = put(mappings, 'plan', CHECK_QUERY.out.plan).map { m ->
        def plan = parse(m.plan.text)
        m + [size: querySize(plan), faults: faults(plan, m.row)]
    }

    // The gate: all faults are told at once, and nothing is trained before every query has been looked at
    sound = checked.toList().flatMap { all -> announce(all) ; bundled(all.findAll { m -> !m.faults }, settings.max_small_cells) }

    ALIGN_GENES(sound.map { m -> [m.id, m.size, m.plan, m.query, m.obs_table, m.id_table, m.gmt, m.airr, m.card] }, code)
    SURGERY(put(sound, 'prepared', ALIGN_GENES.out.prepared), code)

    // The labels' hierarchy, where there is one, takes the query in; the model is not done before that
    models = SURGERY.out.mappings.branch { m ->
        hierarchical: m.hierarchical
        done: true
    }
    UPDATE_HIERARCHY(models.hierarchical.map { m -> [m.id, m.size, m.prepared, m.model, m.card, m.mapped, m.updated] }, code)
    placed = put(put(models.hierarchical, 'mapped', UPDATE_HIERARCHY.out.mapped), 'updated', UPDATE_HIERARCHY.out.model)
    trained = models.done.mix(placed)

    // Labels from the reference's cells, where there are any
    LABELS(trained, references, settings, code)
    labelled = LABELS.out.mappings

    EXPORT_EMBEDDING(labelled.map { m -> [m.id, m.size, m.plan, m.query, m.obs_table, m.mapped] }, settings.subMap(['output_format']), code)
    QC_MAPPING(
        labelled.map { m -> [m.id, m.size, m.plan, m.query, m.obs_table, m.prepared, m.mapped, m.scale] },
        settings.subMap(['unknown_threshold']),
        code,
    )
    exported = put(labelled, 'exported', EXPORT_EMBEDDING.out.query)

    emit:
    checked = checked
    trained = trained
    exported = exported
    copied = put(labelled, 'h5ad', EXPORT_EMBEDDING.out.h5ad)
    judged = put(labelled, 'qc', QC_MAPPING.out.qc)
    passed = checked.map { m -> [m.id, 'CHECK_QUERY'] }.mix(
        ALIGN_GENES.out.prepared.map { id, _prepared -> [id, 'ALIGN_GENES'] },
        SURGERY.out.mappings.map { m -> [m.id, 'TRAIN_SURGERY'] },
        placed.map { m -> [m.id, 'UPDATE_HIERARCHY'] },
        LABELS.out.passed,
        exported.map { m -> [m.id, 'EXPORT_EMBEDDING'] },
    )
    faults = ALIGN_GENES.out.fault.mix(
        SURGERY.out.faults, UPDATE_HIERARCHY.out.fault, LABELS.out.faults, EXPORT_EMBEDDING.out.fault, QC_MAPPING.out.fault,
    )
}

// All that a mapping cannot be done for: its plan does not know how it is to be trained
def faults(plan, row) {
    return plan.faults + (plan.refused?.get(row.strategy) ?: [])
}

// The faults that are known before any training, all at once
def announce(mappings) {
    def faulty = mappings.findAll { m -> m.faults }
    if (faulty) {
        def lines = faulty.collect { m -> "  ${m.dataset}/${m.file_id}:" + m.faults.collect { fault -> "\n    - ${fault}" }.join('') }
        log.warn("${faulty.size()} of ${mappings.size()} mappings cannot be done and are left out:\n${lines.sort().join('\n')}")
    }
}
