// What a run is asked for

include { MAKE_DEMO   } from '../modules/make_demo'
include { CHECK_INPUT } from '../modules/check_input'

include { given ; isAddress ; located ; ofModel ; parse ; toJson } from '../modules/functions'

// The sheet and the parameters, checked. Emits
//   mappings    records: [id, dataset, file_id, row, query, obs_table, id_table, gmt, airr, model, cells, cells_airr]; a path that leads nowhere is []
//   atlas       what a reference is to be trained on, if one is: a path, or an address
//   trainer     the environment that trains it, and where its cells are as a row has it: a file of JSON
//   rows        all rows as one file
//   parameters  as they were checked: a file
workflow SHEET {
    take:
    settings
    code

    main:
    // [] is the sheet where a reference is trained and nothing mapped
    if (settings.demo) {
        MAKE_DEMO(settings.seed, code)
        sheet = MAKE_DEMO.out.sheet
        atlas = MAKE_DEMO.out.atlas
    } else {
        sheet = channel.value(given('input', settings))
        atlas = settings.reference ? channel.value(isAddress(settings.reference) ? settings.reference : given('reference', settings)) : channel.empty()
    }
    CHECK_INPUT(sheet, toJson(settings.sort()), file("${projectDir}/nextflow_schema.json"), code)

    emit:
    mappings = CHECK_INPUT.out.mappings
        .splitText()
        .combine(sheet.map { path -> [path] })
        .map { line, path -> mapping(parse(line), path) }
    atlas = atlas
    trainer = CHECK_INPUT.out.trainer
    rows = CHECK_INPUT.out.mappings
    parameters = CHECK_INPUT.out.parameters
}

// The record of a row, as it sets out
def mapping(row, sheet) {
    return [
        id: "${row.dataset}~${row.file_id}".toString(), dataset: row.dataset, file_id: row.file_id, row: row,
        query: located(row.query, sheet), obs_table: located(row.obs_table, sheet), id_table: located(row.id_table, sheet), gmt: located(row.gmt, sheet),
        airr: located(row.airr, sheet),
        model: ofModel(row.model, sheet), cells: ofModel(row.cells.reference, sheet),
        cells_airr: located(row.cells.airr, sheet),
    ]
}
