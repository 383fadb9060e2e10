#!/usr/bin/env nextflow

// refmap: queries mapped onto reference models by architecture surgery. docs/images/flow.svg is the picture of what stands here.
//
// A mapping is one record, a map that only grows on its way: [id, dataset, file_id, row, query, model, …, card, plan, prepared,
// mapped, …]. Each step takes from it what its process needs; what that gives is put into it by `id`. `settings` are the
// parameters by their types; `code`, the hash of all code, is an input of every task.

include { SHEET     } from './subworkflows/sheet'
include { FETCH     } from './subworkflows/fetching'
include { REFERENCE } from './subworkflows/reference'
include { MODELS    } from './subworkflows/models'
include { MAPPING   } from './subworkflows/mapping'
include { JOINT     } from './subworkflows/joint'
include { RESULTS   } from './subworkflows/results'

include { helpText ; parameters ; referencesText } from './modules/parameters'
include { claim ; publish       } from './modules/publishing'
include { codeVersion           } from './modules/functions'

workflow MAP {
    take:
    settings

    main:
    claim(settings.outdir)
    code = codeVersion()

    // What is asked for: a mapping for each row of the sheet, and the atlas that a reference is to be trained on, if one is
    SHEET(settings, code)
    FETCH(SHEET.out.mappings, SHEET.out.atlas, settings, code)
    REFERENCE(FETCH.out.atlas, SHEET.out.trainer, settings, code)

    // What each mapping stands on: the card of its model, and the cells of its reference where there are any
    MODELS(FETCH.out.mappings, REFERENCE.out.model, FETCH.out.atlas, SHEET.out.trainer, settings, code)

    // Checks and alignment of all, then the gate; surgery, labels, export, figures
    MAPPING(MODELS.out.mappings, MODELS.out.references, settings, code)

    // What was mapped onto one reference, in one file
    JOINT(MAPPING.out.judged, settings, code)

    // Each result in its place below outdir, as soon as it is there
    placed = SHEET.out.parameters.map { path -> publish(path, 'pipeline_info/parameters.json') }.mix(
        MODELS.out.trained.map { path -> publish(path, 'reference_model') },
        MAPPING.out.trained.map { m -> publish(m.updated, "reference_mapping/model/dataset~${m.dataset}/file_id~${m.file_id}") },
        MAPPING.out.exported.map { m -> publish(m.exported, "reference_mapping/dataset~${m.dataset}/file_id~${m.file_id}.zarr") },
        MAPPING.out.exported.filter { m -> m.h5ad }.map { m -> publish(m.h5ad, "reference_mapping/dataset~${m.dataset}/file_id~${m.file_id}.h5ad") },
        MAPPING.out.judged.map { m -> publish(m.qc, "reference_mapping/qc/dataset~${m.dataset}/file_id~${m.file_id}") },
        JOINT.out.files.transpose().map { _name, path -> publish(path, "reference_mapping/joint/${path.name}") },
    )

    // One page and one index over all mappings, those that failed included, and the exit status
    RESULTS(
        SHEET.out.rows, MODELS.out.cards, MODELS.out.references,
        MAPPING.out.checked, MAPPING.out.passed, MAPPING.out.faults, MAPPING.out.judged,
        JOINT.out.about, placed, settings, code,
    )
}

workflow {
    settings = parameters()
    if (settings.help) {
        println(helpText())
    } else if (settings.list_references) {
        println(referencesText())
    } else if (settings.version) {
        println("refmap ${workflow.manifest.version}")
    } else {
        MAP(settings)
    }
}
