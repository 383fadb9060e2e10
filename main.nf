#!/usr/bin/env nextflow

// refmap: queries mapped onto reference models by architecture surgery.
// meta = [id, dataset, file_id, family, env, hierarchy] is set once; `code`, the hash of all code, is an input of every task.

include { MAKE_DEMO        } from './modules/make_demo'
include { CHECK_INPUT      } from './modules/check_input'
include { ALIGN_REFERENCE  } from './modules/align_reference'
include { TRAIN_REFERENCE  } from './modules/train_reference'
include { LEARN_HIERARCHY  } from './modules/learn_hierarchy'
include { INSPECT_MODEL    } from './modules/inspect_model'
include { PREPARE_REFERENCE   } from './modules/prepare_reference'
include { EMBED_REFERENCE     } from './modules/embed_reference'
include { CALIBRATE_REFERENCE } from './modules/calibrate_reference'
include { CHECK_QUERY      } from './modules/check_query'
include { ALIGN_GENES      } from './modules/align_genes'
include { TRAIN_SURGERY ; TRAIN_SURGERY as TRAIN_ALONE } from './modules/train_surgery'
include { UPDATE_HIERARCHY } from './modules/update_hierarchy'
include { TRANSFER_LABELS  } from './modules/transfer_labels'
include { EXPORT_EMBEDDING } from './modules/export_embedding'
include { QC_MAPPING       } from './modules/qc_mapping'
include { REPORT           } from './modules/report'
include { VERDICT          } from './modules/verdict'

include { claim ; publish } from './modules/publishing'
include { alignedSize ; announce ; codeVersion ; furthest ; given ; helpText ; judged ; located ; mappingId ; parameters ; parse ; referenceSettings } from './modules/functions'
include { firstOf ; sameCells ; size ; stamp ; tasks ; toJson ; together ; training ; withoutTraining } from './modules/functions'

workflow MAP {
    claim(params.outdir)
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
            [aligned, settings, given('reference_gmt'), trainer.text.trim(), hierarchical, alignedSize(aligned, params.reference_max_epochs)]
        },
        code,
    )
    LEARN_HIERARCHY(TRAIN_REFERENCE.out.model.combine(TRAIN_REFERENCE.out.embedding), referenceSettings(), code)
    reference = hierarchical ? LEARN_HIERARCHY.out.model : TRAIN_REFERENCE.out.model

    // [[model's name, what the row says of its reference cells], row, query, id table, GMT, reference cells, model]; a path that
    // leads nowhere is []
    rows = CHECK_INPUT.out.mappings
        .splitText { line -> line.trim() }
        .combine(sheet.map { path -> [path] })
        .combine(reference.ifEmpty([]).map { path -> [path] })
        .combine(atlas.ifEmpty([]).map { path -> [path] })
        .map { line, path, trained, its_cells ->
            def row = parse(line)
            [
                [row.model ?: 'the reference trained in this run', toJson(row.cells.sort())], row,
                located(row.query, path), located(row.id_table, path), located(row.gmt, path),
                row.cells.trained ? its_cells : located(row.cells.reference, path), row.model ? located(row.model, path) : trained,
            ]
        }

    // Once a distinct model: [name, card]
    models = rows.map { key, _row, _query, _table, _gmt, _cells, model -> [key[0], model] }.unique { name, _model -> name }
    INSPECT_MODEL(models.map { name, model -> [name, model, stamp(model)] }, code)

    // Once a distinct reference: its cells in the latent space, and the scale that they set
    references = rows.map { key, _row, _query, _table, _gmt, cells, model -> [key[0], key, cells, model] }
        .unique { _name, key, _cells, _model -> key }
        .combine(INSPECT_MODEL.out.card, by: 0)
    PREPARE_REFERENCE(references.map { _name, key, cells, model, card -> [key, cells, model, stamp(cells) + stamp(model), card] }, code)
    cells = PREPARE_REFERENCE.out.prepared.branch { _key, prepared ->
        def source = parse(prepared.resolve('reference.json').text).source
        counts: source == 'counts'
        embedded: source
    }
    // The same cells are embedded once, whichever of their labels are wanted
    counted = cells.counts.map { key, prepared -> [sameCells(key), key, prepared] }
    EMBED_REFERENCE(
        counted
            .groupTuple()
            .map { same, keys, prepared -> firstOf(keys, prepared) + [same] }
            .join(references.map { _name, key, _cells, model, card -> [key, model, card] })
            .map { _key, prepared, same, model, card ->
                [same, parse(card.text).env, alignedSize(prepared.resolve('aligned.zarr'), 0), prepared, model, card]
            },
        code,
    )
    CALIBRATE_REFERENCE(
        counted
            .combine(EMBED_REFERENCE.out.latent, by: 0)
            .map { _same, key, prepared, latent -> [key, prepared, latent] }
            .mix(cells.embedded.map { key, prepared -> [key, prepared, []] }),
        code,
    )

    // [meta, row, query, id table, GMT, model, card], and of each whether it has reference cells: [meta, key, whether]
    joined = rows
        .map { key, row, query, table, gmt, _cells, model -> [key, row, query, table, gmt, model] }
        .combine(references.map { _name, key, _cells, _model, card -> [key, card] }, by: 0)
        .combine(PREPARE_REFERENCE.out.prepared, by: 0)
        .map { key, row, query, table, gmt, model, card, prepared ->
            def kind = parse(card.text)
            def found = parse(prepared.resolve('reference.json').text)
            def id = "${row.dataset}~${row.file_id}".toString()
            def meta = [id: id, dataset: row.dataset, file_id: row.file_id, family: kind.family, env: kind.env, hierarchy: kind.hierarchy != null]
            [meta, row + [reference_fault: found.fault], query, table, gmt, model, card, key, found.source != null]
        }
    mappings = joined.map { meta, row, query, table, gmt, model, card, _key, _found -> [meta, row, query, table, gmt, model, card] }
    keys = joined.map { meta, _row, _query, _table, _gmt, _model, _card, key, found -> [meta, key, found] }
    CHECK_QUERY(
        mappings.map { meta, row, query, table, gmt, _model, card -> [meta, withoutTraining(row), query, table, gmt, stamp(query), card] },
        code,
    )

    // The gate: all faults are told at once, and nothing is trained before every query has been looked at
    plans = CHECK_QUERY.out.plan
        .join(mappings.map { meta, row, _query, _table, _gmt, _model, _card -> [meta, row] })
        .map { meta, path, row -> [meta, row, path, judged(parse(path.text), row)] }
    gate = plans.map { meta, row, _path, plan -> [meta, row, plan] }.toList().map { all -> announce(all); tasks(all) }

    // [meta, size, plan, query, id table, GMT, model, card]
    sound = plans.filter { _meta, _row, _path, plan -> !plan.faults }
    ready = sound
        .combine(gate)
        .map { meta, _row, path, plan, _tasks -> [meta, size(plan), path] }
        .join(mappings.map { meta, _row, query, table, gmt, model, card -> [meta, query, table, gmt, model, card] })
    ALIGN_GENES(ready.map { meta, size, plan, query, table, gmt, _model, card -> [meta, size, plan, query, table, gmt, card] }, code)

    // Small mappings onto one model share a task, which starts when all of them are there; a large one has its own:
    // [metas, size, training as JSON, prepared queries, model, card]
    jobs = sound
        .combine(gate)
        .map { meta, row, _path, _plan, tasks -> [meta, tasks[meta.id], training(row)] }
        .join(ready.map { meta, _size, _plan, _query, _table, _gmt, model, card -> [meta, model, card] })
        .join(ALIGN_GENES.out.prepared)
        .map { meta, task, training, model, card, prepared ->
            def size = alignedSize(prepared.resolve('aligned.zarr'), training.train?.max_epochs)
            [task, [meta: meta, size: size, training: training, prepared: prepared, model: model, card: card]]
        }
        .branch { task, member ->
            large: task == null
                return member
            small: true
        }
    TRAIN_SURGERY(jobs.small.groupTuple(remainder: true).map { _task, members -> together(members) }, code)

    // What such a task left undone, because it was killed, is tried again by itself
    settled = TRAIN_SURGERY.out.mapped.mix(TRAIN_SURGERY.out.fault).flatten().map { path -> [mappingId(path), true] }
    TRAIN_ALONE(
        jobs.small
            .filter { task, _member -> task.groupSize > 1 }
            .map { _task, member -> [member.meta.id, member] }
            .join(settled, remainder: true)
            .filter { _id, member, done -> member && !done }
            .map { _id, member, _done -> member }
            .mix(jobs.large)
            .map { member -> together([member]) },
        code,
    )

    // [meta, what surgery gave], with the labels' hierarchy, where there is one, taking the query in
    metas = ready.map { item -> [item[0].id, item[0]] }
    trained = TRAIN_SURGERY.out.mapped.mix(TRAIN_ALONE.out.mapped).flatten().map { path -> [mappingId(path), path] }
    updated = TRAIN_SURGERY.out.model.mix(TRAIN_ALONE.out.model).flatten().map { path -> [mappingId(path), path] }
    surgery = metas.join(trained).join(updated).branch { _id, meta, mapped, model ->
        hierarchical: meta.hierarchy
            return [meta, mapped, model]
        done: true
            return [meta, mapped]
    }
    UPDATE_HIERARCHY(
        ready.map { meta, size, _plan, _query, _table, _gmt, model, card -> [meta, size, model, card] }
            .join(ALIGN_GENES.out.prepared)
            .join(surgery.hierarchical)
            .map { meta, size, model, card, prepared, mapped, updated -> [meta, size, prepared, model, card, mapped, updated] },
        code,
    )

    // Labels from the reference's cells, where there are any: [meta, size, plan, query, mapped, reference]
    scales = keys.map { meta, key, _found -> [key, meta] }
        .combine(CALIBRATE_REFERENCE.out.reference, by: 0)
        .map { _key, meta, scale -> [meta, scale] }
    mapped = ready
        .map { meta, size, plan, query, _table, _gmt, _model, _card -> [meta, size, plan, query] }
        .join(surgery.done.mix(UPDATE_HIERARCHY.out.mapped))
        .join(keys.map { meta, _key, found -> [meta, found] })
        .branch { meta, size, plan, query, mapped, found ->
            near: found
                return [meta, size, plan, query, mapped]
            alone: true
                return [meta, size, plan, query, mapped, []]
        }
    TRANSFER_LABELS(mapped.near.join(scales).map { meta, size, plan, _query, mapped, scale -> [meta, size, plan, mapped, scale] }, code)
    labelled = mapped.near
        .map { meta, size, plan, query, _mapped -> [meta, size, plan, query] }
        .join(TRANSFER_LABELS.out.mapped)
        .join(scales)
        .mix(mapped.alone)
    EXPORT_EMBEDDING(labelled.map { meta, size, plan, query, mapped, _scale -> [meta, size, plan, query, mapped] }, code)
    QC_MAPPING(
        labelled.join(ALIGN_GENES.out.prepared).map { meta, size, plan, query, mapped, scale, prepared ->
            [meta, size, plan, query, prepared, mapped, scale]
        },
        code,
    )

    // Each result in its place below outdir; a model with a hierarchy is not done before the query has its place in that
    models = metas.join(updated)
        .filter { _id, meta, _model -> !meta.hierarchy }
        .map { _id, meta, model -> [meta, model] }
        .mix(UPDATE_HIERARCHY.out.model)
    placed = CHECK_INPUT.out.parameters.map { path -> publish(path, 'pipeline_info/parameters.json') }.mix(
        reference.map { path -> publish(path, 'reference_model') },
        models.map { meta, path -> publish(path, "reference_mapping/model/dataset~${meta.dataset}/file_id~${meta.file_id}") },
        EXPORT_EMBEDDING.out.query.map { meta, path -> publish(path, "reference_mapping/dataset~${meta.dataset}/file_id~${meta.file_id}.zarr") },
        QC_MAPPING.out.qc.map { meta, path -> publish(path, "reference_mapping/qc/dataset~${meta.dataset}/file_id~${meta.file_id}") },
    )

    // One page over all mappings, those that failed included
    passed = CHECK_QUERY.out.plan.map { item -> [item[0].id, 'CHECK_QUERY'] }
        .mix(
            ALIGN_GENES.out.prepared.map { item -> [item[0].id, 'ALIGN_GENES'] },
            trained.map { item -> [item[0], 'TRAIN_SURGERY'] },
            UPDATE_HIERARCHY.out.mapped.map { item -> [item[0].id, 'UPDATE_HIERARCHY'] },
            TRANSFER_LABELS.out.mapped.mix(mapped.alone).map { item -> [item[0].id, 'TRANSFER_LABELS'] },
            EXPORT_EMBEDDING.out.query.map { item -> [item[0].id, 'EXPORT_EMBEDDING'] },
        )
    faults = ALIGN_GENES.out.fault
        .mix(TRAIN_SURGERY.out.fault.flatten(), TRAIN_ALONE.out.fault, UPDATE_HIERARCHY.out.fault, TRANSFER_LABELS.out.fault)
        .mix(EXPORT_EMBEDDING.out.fault, QC_MAPPING.out.fault)
    REPORT(
        CHECK_INPUT.out.mappings.filter { path -> path.size() > 0 },
        CHECK_QUERY.out.plan.map { _meta, path -> path }.collect(sort: true).ifEmpty([]),
        INSPECT_MODEL.out.card.map { _name, path -> path }.collect(sort: true).ifEmpty([]),
        faults.collect(sort: true).ifEmpty([]),
        QC_MAPPING.out.qc.map { _meta, path -> path }.collect(sort: true).ifEmpty([]),
        CALIBRATE_REFERENCE.out.reference.map { _key, path -> path.resolve('reference.json') }.collect(sort: true).ifEmpty([]),
        passed.toList().map { all -> furthest(all) },
        file("${projectDir}/assets/multiqc_config.yml"),
        code,
    )
    // The index comes last: what it names is in its place
    told = REPORT.out.page.map { path -> [path, 'multiqc/multiqc_report.html'] }
        .mix(
            REPORT.out.index.map { path -> [path, 'reference_mapping/mappings.csv'] },
            REPORT.out.versions.map { path -> [path, 'pipeline_info/software_versions.yml'] },
        )
        .combine(placed.toList().map { places -> [places] })
        .map { path, name, _places -> publish(path, name) }
    REPORT.out.summary.view { path -> path.text }
    VERDICT(REPORT.out.failed.combine(told.toList().map { places -> [places] }).map { path, _places -> path.text.trim() as Integer }.first())
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
