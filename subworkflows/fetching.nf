// Models and cells that are named by an address

include { RESOLVE_ADDRESS } from '../modules/resolve_address'
include { FETCH_MODEL     } from '../modules/fetch_model'

include { isAddress ; parse ; toJson } from '../modules/functions'
include { keep ; kept } from '../modules/publishing'

// Every distinct address asked what it leads to, and that fetched, unless the cache has it. Emits
//   mappings  the records, with model and cells where they lie now, origin (JSON of where the model comes from, or why there is none),
//             cells_origin (the same of the cells, a map) and unfetched (why there are no cells)
//   atlas     [a path, where it comes from: a map, or null]
workflow FETCH {
    take:
    mappings
    atlas
    settings
    code

    main:
    sought = mappings.branch { m ->
        remote: modelAddress(m) || cellsAddress(m)
        here: true
    }
    training = atlas.branch { place ->
        remote: place instanceof CharSequence
        here: true
    }
    RESOLVE_ADDRESS(sought.remote.toList().flatMap { all -> addresses(all) }.mix(training.remote.map { address -> [address, 'cells', true] }).unique(), code)
    resolved = RESOLVE_ADDRESS.out.resolved
        .map { address, what, path -> [address: address, what: what, about: toJson(parse(path.text))] }
        .map { r -> r + parse(r.about).subMap(['fault', 'key']) }
        .map { r -> r + [place: r.key ? kept("models/${r.key}", settings) : null] }
        .branch { r ->
            faulty: r.fault
            found: r.place?.exists()
            fresh: true
        }
    FETCH_MODEL(resolved.fresh.map { r -> [r.address, r.what, r.about] }, partial(settings), code)
    fetched = resolved.fresh.map { r -> [[r.address, r.what], r] }
        .join(FETCH_MODEL.out.fetched.map { address, what, folder -> [[address, what], folder] }, remainder: true)
        .map { key, r, folder -> [key, folder ? brought(folder, r.place) : [fault: unfinished(key[0])]] }
        .mix(
            resolved.faulty.map { r -> [[r.address, r.what], [fault: r.fault]] },
            resolved.found.map { r -> [[r.address, r.what], brought(r.place, r.place)] },
        )
    known = fetched.toList().map { all -> [all.collectEntries { key, result -> [key, result] }] }

    emit:
    mappings = sought.here.mix(
        sought.remote.combine(known).map { m, found ->
            def model = found[[modelAddress(m), 'model']]
            def cells = found[[cellsAddress(m), 'cells']]
            m + (model ? [model: model.path ?: [], origin: toJson(model.subMap(model.keySet() - 'path').sort())] : [:]) +
                (cells ? [cells: cells.path ?: [], cells_origin: cells.subMap(cells.keySet() - 'path'), unfetched: cells.fault] : [:])
        }
    )
    atlas = training.here.map { path -> [path, null] }.mix(
        training.remote.combine(known).map { address, found ->
            def result = found[[address, 'cells']]
            result.fault ? error("--reference: ${result.fault}") : [result.path, result.subMap(result.keySet() - 'path')]
        }
    )
}

// The address of a record's model that is not where Nextflow finds it; null where there is none
def modelAddress(m) {
    return !m.model && isAddress(m.row.model) ? m.row.model : null
}

def cellsAddress(m) {
    return !m.cells && isAddress(m.row.cells.reference) ? m.row.cells.reference : null
}

// What is to be asked for: [address, what, whether the cells beside a model are wanted]. They are unless all rows name others
def addresses(all) {
    def models = all.findAll { m -> modelAddress(m) }.groupBy { m -> modelAddress(m) }
    def cells = all.collect { m -> cellsAddress(m) }.findAll().unique()
    return models.collect { address, rows -> [address, 'model', rows.any { m -> !m.row.cells.reference }] } + cells.collect { address -> [address, 'cells', true] }
}

// Where a cache keeps what was cut off; '' without one
def partial(settings) {
    def folder = kept('partial', settings)
    folder?.mkdirs()
    return folder ? folder.toString() : ''
}

// What was fetched, kept for other runs: where it comes from, its fault, and its path
def brought(folder, place) {
    def origin = parse(folder.resolve('origin.json').text)
    def lies = !origin.fault && place ? keep(folder, place) : folder
    return origin + (origin.fault ? [:] : [path: lies.resolve('content').list().collect { name -> lies.resolve("content/${name}") }.first()])
}

def unfinished(address) {
    return "${address} was not fetched to its end: see the log of FETCH_MODEL in the work directory that pipeline_info/trace.txt names, and run again with -resume.".toString()
}
