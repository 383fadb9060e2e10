// The cells of what mappings stand on

include { IDENTIFY_REFERENCE  } from '../modules/identify_reference'
include { PREPARE_REFERENCE   } from '../modules/prepare_reference'
include { EMBED_REFERENCE     } from '../modules/embed_reference'
include { CALIBRATE_REFERENCE } from '../modules/calibrate_reference'
include { SAVE_REFERENCE      } from '../modules/save_reference'

include { alignedSize ; parse ; put ; stamp ; toJson ; trainedHere } from '../modules/functions'
include { keep ; kept } from '../modules/publishing'

// Every distinct reference's cells put into the latent space of its model, and the scale that they set. `known` are records with
// model, cells, card, env and reference; `own` is that of the model that the run trains. Emits
//   found    [reference, [source, fault, warnings]]
//   scales   [reference, the scale that its cells set], of those that have cells; [] where these cannot be embedded
//   trained  the model that the run trained, with what its cells say beside its files; nothing where there is none
workflow CELLS {
    take:
    known
    own
    trained
    settings
    code

    main:
    // A reference is a record of its own: [reference, model, cells, cells_airr, card, env, most_in_memory, prepared, source, fault, warnings, latent]
    references = known.unique { m -> m.reference }.map { m -> m.subMap(['reference', 'model', 'cells', 'cells_airr', 'card', 'env', 'most_in_memory']) }
    // What another run found out about the same one is taken over
    IDENTIFY_REFERENCE(
        references.filter { r -> settings.cache && r.reference.model != trainedHere() }.map { r -> filesOf(r) },
        toJson(settings.subMap(measuring()).sort()),
        code,
    )
    sought = references.map { r -> [r.reference, r] }
        .join(IDENTIFY_REFERENCE.out.key, remainder: true)
        .map { _reference, r, key -> r + [place: key ? kept("references/${key.text.trim()}", settings) : null] }
        .branch { r ->
            found: r.place?.exists()
            fresh: true
        }
    PREPARE_REFERENCE(sought.fresh.map { r -> filesOf(r) }, code)
    prepared = put(sought.fresh, 'prepared', PREPARE_REFERENCE.out.prepared, 'reference').map { r ->
        r + told(r.prepared)
    }
    sources = prepared.branch { r ->
        counts: r.source == 'counts'
        embedded: r.source
    }

    // The same cells are embedded once, whichever of their labels are wanted
    counted = sources.counts.map { r -> r + [cells_alone: withoutLabels(r.reference)] }
    distinct = counted.map { r -> [r.cells_alone, r] }.groupTuple().map { _cells, same -> same.min { r -> r.reference.request } }
    EMBED_REFERENCE(
        distinct.map { r -> [r.cells_alone, r.env, alignedSize(r.prepared.resolve('aligned.zarr'), 0, r.most_in_memory), r.prepared, r.model, r.card] },
        settings.subMap(['seed']),
        code,
    )
    embedded = put(counted, 'latent', EMBED_REFERENCE.out.latent, 'cells_alone').mix(sources.embedded.map { r -> r + [latent: []] })
    CALIBRATE_REFERENCE(
        embedded.map { r -> [r.reference, r.prepared, r.latent] },
        settings.subMap(measuring()),
        code,
    )

    // What is not measured is published as it was trained
    measured = put(put(own, 'embedded', embedded.map { r -> [r.reference, r] }, 'reference'), 'scale', CALIBRATE_REFERENCE.out.reference, 'reference')
    SAVE_REFERENCE(
        measured.map { m -> [m.model, m.embedded.card, m.embedded.prepared, m.embedded.latent, m.scale] },
        code,
    )
    saved = trained.map { path -> [trainedHere(), path] }
        .join(SAVE_REFERENCE.out.model.map { path -> [trainedHere(), path] }, remainder: true)
        .map { _name, plain, whole -> whole ?: plain }

    // What fails there ends a mapping only if its row names the cells
    calibrated = put(embedded, 'scale', CALIBRATE_REFERENCE.out.reference, 'reference')
        .map { r -> [r.reference, r.place ? keep(r.scale, r.place) : r.scale] }
    scaled = prepared.filter { r -> r.source }.map { r -> [r.reference, r.source] }
        .join(calibrated, remainder: true)
        .map { reference, _source, scale -> [reference, scale ?: []] }
        .mix(sought.found.map { r -> [r.reference, r.place] })
    scaled.subscribe { reference, scale ->
        if (!scale) {
            log.warn("The reference cells of '${reference.model}' could not be embedded: see the logs of EMBED_REFERENCE and CALIBRATE_REFERENCE.")
        }
    }

    emit:
    found = prepared.mix(sought.found.map { r -> r + told(r.place) }).map { r -> [r.reference, r.subMap(['source', 'fault', 'warnings'])] }
    scales = scaled
    trained = saved
}

// What its cells are found in
def filesOf(r) {
    return [r.reference, r.cells, r.cells_airr, r.model, stamp(r.cells) + stamp(r.model), r.card]
}

// What is to be said of a reference's cells
def told(folder) {
    return parse(folder.resolve('reference.json').text).subMap(['source', 'fault', 'warnings'])
}

// What the scale of a reference hangs on
def measuring() {
    return ['seed', 'transfer_neighbors', 'unknown_threshold']
}

// The cells of a reference, whatever of their labels and other columns is asked for
def withoutLabels(reference) {
    return reference + [request: toJson(parse(reference.request).findAll { what, _value -> !(what in ['transfer_keys', 'columns']) }.sort())]
}
