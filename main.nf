#!/usr/bin/env nextflow

// refmap: queries mapped onto reference models by architecture surgery.
// meta = [id, dataset, file_id, family, env, hierarchy] is set once; `code`, the hash of all code, is an input of every task.

include { MAKE_DEMO        } from './modules/make_demo'
include { CHECK_INPUT      } from './modules/check_input'
include { ALIGN_REFERENCE  } from './modules/align_reference'
include { TRAIN_REFERENCE  } from './modules/train_reference'
include { LEARN_HIERARCHY  } from './modules/learn_hierarchy'
include { INSPECT_MODEL    } from './modules/inspect_model'
include { CHECK_QUERY      } from './modules/check_query'
include { ALIGN_GENES      } from './modules/align_genes'
include { TRAIN_SURGERY    } from './modules/train_surgery'
include { UPDATE_HIERARCHY } from './modules/update_hierarchy'
include { EXPORT_EMBEDDING } from './modules/export_embedding'
include { QC_MAPPING       } from './modules/qc_mapping'
include { REPORT           } from './modules/report'
include { VERDICT          } from './modules/verdict'

include { announce ; codeVersion ; furthest ; given ; helpText ; located ; parameters ; parse ; referenceSettings ; stamp ; toJson ; training ; withoutTraining } from './modules/functions'

workflow MAP {
    code = codeVersion()

    // The sheet ([] where a reference is trained and nothing mapped), and the atlas if a reference is to be trained
    if (params.demo) {
        MAKE_DEMO(params.seed, code)
        sheet = MAKE_DEMO.out.sheet
        atlas = MAKE_DEMO.out.atlas
    } else {
        sheet = Channel.value(given('input'))
        atlas = params.reference ? Channel.value(given('reference')) : Channel.empty()
    }
    CHECK_INPUT(sheet, toJson(parameters().sort()), file("${projectDir}/nextflow_schema.json"), code)

    // Nothing is trained before the sheet is known to be right
    hierarchical = params.family == 'treearches'
    ALIGN_REFERENCE(atlas.combine(CHECK_INPUT.out.trainer).map { path, _trainer -> [path, stamp(path)] }, referenceSettings(), code)
    TRAIN_REFERENCE(
        ALIGN_REFERENCE.out.aligned.combine(CHECK_INPUT.out.trainer).map { aligned, settings, trainer ->
            [aligned, settings, given('reference_gmt'), trainer.text.trim(), hierarchical]
        },
        code,
    )
    LEARN_HIERARCHY(TRAIN_REFERENCE.out.model.combine(TRAIN_REFERENCE.out.embedding), referenceSettings(), code)
    reference = hierarchical ? LEARN_HIERARCHY.out.model : TRAIN_REFERENCE.out.model

    // [model's name, row, query, id table, GMT, model]; a path that leads nowhere is []
    rows = CHECK_INPUT.out.mappings
        .splitText { line -> line.trim() }
        .combine(sheet.map { path -> [path] })
        .combine(reference.ifEmpty([]).map { path -> [path] })
        .map { line, path, trained ->
            def row = parse(line)
            [
                row.model ?: 'the reference trained in this run', row,
                located(row.query, path), located(row.id_table, path), located(row.gmt, path), row.model ? located(row.model, path) : trained,
            ]
        }

    // Once a distinct model: [name, card]
    INSPECT_MODEL(rows.map { name, _row, _query, _table, _gmt, model -> [name, model, stamp(model)] }.unique(), code)

    // [meta, row, query, id table, GMT, model, card]
    mappings = rows
        .combine(INSPECT_MODEL.out.card, by: 0)
        .map { _name, row, query, table, gmt, model, card ->
            def kind = parse(card.text)
            def id = "${row.dataset}~${row.file_id}".toString()
            def meta = [id: id, dataset: row.dataset, file_id: row.file_id, family: kind.family, env: kind.env, hierarchy: kind.hierarchy != null]
            [meta, row, query, table, gmt, model, card]
        }
    CHECK_QUERY(
        mappings.map { meta, row, query, table, gmt, _model, card -> [meta, withoutTraining(row), query, table, gmt, stamp(query), card] },
        code,
    )

    // The gate: all faults are told at once, and nothing is trained before every query has been looked at
    plans = CHECK_QUERY.out.plan.map { meta, path -> [meta, path, parse(path.text)] }
    gate = plans.map { meta, _path, plan -> [meta, plan] }.toList().map { all -> announce(all) }

    // [meta, plan, query, id table, GMT, model, card]
    ready = plans
        .filter { _meta, _path, plan -> !plan.faults }
        .combine(gate)
        .map { meta, path, _plan, _gate -> [meta, path] }
        .join(mappings.map { meta, _row, query, table, gmt, model, card -> [meta, query, table, gmt, model, card] })

    ALIGN_GENES(ready.map { meta, plan, query, table, _gmt, _model, card -> [meta, plan, query, table, card] }, code)

    // [meta, training as JSON, plan, aligned, alignment, model, card, GMT]
    settings = mappings.map { meta, row, _query, _table, _gmt, _model, _card -> [meta, training(row)] }
    TRAIN_SURGERY(
        settings.join(ready).join(ALIGN_GENES.out.aligned).map { meta, train, plan, _query, _table, gmt, model, card, aligned, alignment ->
            [meta, train, plan, aligned, alignment, model, card, gmt]
        },
        code,
    )

    // A hierarchy of labels takes the query in: [meta, embedding, history, record, results] before and after
    surgery = TRAIN_SURGERY.out.mapped.branch { item ->
        hierarchical: item[0].hierarchy
        done: true
    }
    UPDATE_HIERARCHY(
        ready.map { meta, plan, _query, _table, _gmt, model, card -> [meta, plan, model, card] }
            .join(ALIGN_GENES.out.aligned.map { meta, aligned, _alignment -> [meta, aligned] })
            .join(surgery.hierarchical.map { meta, embedding, _history, record, results -> [meta, embedding, record, results] })
            .join(TRAIN_SURGERY.out.model),
        code,
    )
    placed = surgery.hierarchical
        .join(UPDATE_HIERARCHY.out.mapped)
        .map { meta, _embedding, history, _record, _results, embedding, record, results -> [meta, embedding, history, record, results] }

    // [meta, plan, query, embedding, history, record, results]
    mapped = ready
        .map { meta, plan, query, _table, _gmt, _model, _card -> [meta, plan, query] }
        .join(surgery.done.mix(placed))
    EXPORT_EMBEDDING(mapped.map { meta, plan, query, embedding, _history, _record, _results -> [meta, plan, query, embedding] }, code)
    QC_MAPPING(mapped.join(ALIGN_GENES.out.aligned.map { meta, _aligned, alignment -> [meta, alignment] }), code)

    // One page over all mappings, those that failed included
    passed = CHECK_QUERY.out.plan.map { item -> [item[0].id, 'CHECK_QUERY'] }
        .mix(
            ALIGN_GENES.out.aligned.map { item -> [item[0].id, 'ALIGN_GENES'] },
            TRAIN_SURGERY.out.mapped.map { item -> [item[0].id, 'TRAIN_SURGERY'] },
            UPDATE_HIERARCHY.out.mapped.map { item -> [item[0].id, 'UPDATE_HIERARCHY'] },
            EXPORT_EMBEDDING.out.query.map { item -> [item[0].id, 'EXPORT_EMBEDDING'] },
        )
    faults = ALIGN_GENES.out.fault.mix(TRAIN_SURGERY.out.fault, UPDATE_HIERARCHY.out.fault, EXPORT_EMBEDDING.out.fault, QC_MAPPING.out.fault)
    REPORT(
        CHECK_INPUT.out.mappings.filter { path -> path.size() > 0 },
        CHECK_QUERY.out.plan.map { _meta, path -> path }.collect(sort: true).ifEmpty([]),
        INSPECT_MODEL.out.card.map { _name, path -> path }.collect(sort: true).ifEmpty([]),
        faults.collect(sort: true).ifEmpty([]),
        QC_MAPPING.out.qc.collect(sort: true).ifEmpty([]),
        passed.toList().map { all -> furthest(all) },
        file("${projectDir}/assets/multiqc_config.yml"),
        code,
    )
    REPORT.out.summary.view { path -> path.text }
    VERDICT(REPORT.out.failed.map { path -> path.text.trim() as Integer })
}

workflow {
    if (params.help) {
        println(helpText())
    } else if (params.version) {
        println("refmap ${workflow.manifest.version}")
    } else {
        MAP()
    }
}
