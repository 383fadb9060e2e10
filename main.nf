#!/usr/bin/env nextflow

// refmap: queries mapped onto reference models by architecture surgery.
// meta = [id, dataset, file_id, family, env] is set once; `code`, the hash of all code, is an input of every task.

include { MAKE_DEMO        } from './modules/make_demo'
include { CHECK_INPUT      } from './modules/check_input'
include { TRAIN_REFERENCE  } from './modules/train_reference'
include { INSPECT_MODEL    } from './modules/inspect_model'
include { CHECK_QUERY      } from './modules/check_query'
include { ALIGN_GENES      } from './modules/align_genes'
include { TRAIN_SURGERY    } from './modules/train_surgery'
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
    TRAIN_REFERENCE(
        atlas.combine(CHECK_INPUT.out.trainer).map { path, env -> [path, stamp(path), given('reference_gmt'), env.text.trim()] },
        referenceSettings(),
        code,
    )

    // [model's name, row, query, id table, GMT, model]; a path that leads nowhere is []
    rows = CHECK_INPUT.out.mappings
        .splitText { line -> line.trim() }
        .combine(sheet.map { path -> [path] })
        .combine(TRAIN_REFERENCE.out.model.ifEmpty([]).map { path -> [path] })
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
            [[id: id, dataset: row.dataset, file_id: row.file_id, family: kind.family, env: kind.env], row, query, table, gmt, model, card]
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

    // [meta, plan, query, embedding, history, record, results]
    mapped = ready
        .map { meta, plan, query, _table, _gmt, _model, _card -> [meta, plan, query] }
        .join(TRAIN_SURGERY.out.mapped)
    EXPORT_EMBEDDING(mapped.map { meta, plan, query, embedding, _history, _record, _results -> [meta, plan, query, embedding] }, code)
    QC_MAPPING(mapped.join(ALIGN_GENES.out.aligned.map { meta, _aligned, alignment -> [meta, alignment] }), code)

    // One page over all mappings, those that failed included
    passed = CHECK_QUERY.out.plan.map { item -> [item[0].id, 'CHECK_QUERY'] }
        .mix(
            ALIGN_GENES.out.aligned.map { item -> [item[0].id, 'ALIGN_GENES'] },
            TRAIN_SURGERY.out.mapped.map { item -> [item[0].id, 'TRAIN_SURGERY'] },
            EXPORT_EMBEDDING.out.query.map { item -> [item[0].id, 'EXPORT_EMBEDDING'] },
        )
    faults = ALIGN_GENES.out.fault.mix(TRAIN_SURGERY.out.fault, EXPORT_EMBEDDING.out.fault, QC_MAPPING.out.fault)
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
