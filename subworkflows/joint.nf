// What was mapped onto one reference, together

include { JOIN_MAPPINGS } from '../modules/join_mappings'

include { parse ; trainedHere } from '../modules/functions'

// Every reference with all that was mapped onto it, once that is done. Takes records with mapped, scale and qc. Emits
//   files   [the name of the reference, its joint atlas as zarr, .h5ad and page]
//   about   what is in each (JSON)
workflow JOINT {
    take:
    mappings
    settings
    code

    main:
    references = mappings
        .filter { _m -> settings.joint }
        .map { m -> [m.reference, m] }
        .groupTuple()
        .toList()
        .flatMap { all -> named(all) }
    JOIN_MAPPINGS(
        references.map { name, reference, members ->
            def sorted = members.sort(false) { m -> m.id }
            [name, [cells: nCells(sorted)], reference.model, sorted.collect { m -> m.mapped }, sorted.collect { m -> m.qc }, sorted[0].scale]
        },
        settings.subMap(['joint_umap', 'seed']),
        code,
    )

    emit:
    files = JOIN_MAPPINGS.out.files
    about = JOIN_MAPPINGS.out.about
}

// References with their mappings, each under a name of its own: that of the model's file or folder, with a number where one model
// is used with several sets of cells, or several models are called alike
def named(references) {
    def sorted = references.sort(false) { item -> "${item[0].model} ${item[0].request}".toString() }
    def names = sorted.collect { item -> shortName(item[0].model) }
    return sorted.withIndex().collect { item, i ->
        def number = names.take(i + 1).count(names[i])
        [number == 1 ? names[i] : "${names[i]}_${number}".toString(), item[0], item[1]]
    }
}

// Of a path or an address what tells it from others, in letters that are safe in every place
def shortName(model) {
    if (model == trainedHere()) {
        return 'reference_model'
    }
    def parts = model.tokenize('/').findAll { part -> !(part ==~ /model\.pt|\.+/) }
    def last = parts ? parts[-1].replaceFirst(/@.*/, '').replaceFirst(/\.(zip|tar|tgz|gz|pt|h5ad)$/, '').replaceFirst(/\.tar$/, '') : ''
    return last.replaceAll(/[^A-Za-z0-9._-]/, '_').replaceFirst(/^[._-]+/, '') ?: 'reference'
}

// Cells of the queries, and of the reference where there are any
def nCells(members) {
    def stored = members[0].scale ? members[0].scale.resolve('cells.zarr/obsm/X_emb/.zarray') : null
    return members.sum { m -> m.size.cells } + (stored?.exists() ? parse(stored.text).shape[0] : 0)
}
