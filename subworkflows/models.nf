// What mappings stand on

include { INSPECT_MODEL       } from '../modules/inspect_model'
include { TRY_MODEL           } from '../modules/try_model'
include { PREPARE_REFERENCE   } from '../modules/prepare_reference'
include { EMBED_REFERENCE     } from '../modules/embed_reference'
include { IDENTIFY_REFERENCE  } from '../modules/identify_reference'
include { CALIBRATE_REFERENCE } from '../modules/calibrate_reference'
include { SAVE_REFERENCE      } from '../modules/save_reference'

include { alignedSize ; given ; parse ; put ; stamp ; toJson } from '../modules/functions'
include { keep ; kept } from '../modules/publishing'

// Every distinct model inspected and tried once, and every distinct reference's cells put into its latent space. Emits
//   mappings    the records with model_name, card, untried, env, hierarchical, reference, and reference_cells: [source, fault, warnings]
//   cards       a file each
//   references  [reference, the scale that its cells set], of those that have cells; [] where these cannot be embedded
//   trained     the model that the run trained, with what its cells say beside its files; nothing where there is none
workflow MODELS {
    take:
    mappings
    trained
    atlas
    trainer
    settings
    code

    main:
    // What names no model is mapped onto the reference that the run trains, whose cells are known
    named = mappings
        .combine(trained.ifEmpty([]).map { path -> [path] })
        .combine(atlas.ifEmpty([]).map { path -> [path] })
        .map { m, trained_here, its_cells -> m + (m.row.model ? [:] : [model: trained_here]) + (m.row.cells.trained ? [cells: its_cells] : [:]) }
        .map { m -> m + [model_name: m.row.model ?: trainedHere(), reference: asked(m.row.model ?: trainedHere(), m.row.cells)] }
    // It is described and measured whether a row is mapped onto it or not
    own = trained.combine(atlas).combine(trainer).map { path, its_cells, about ->
        def cells = parse(about.text).cells
        [model_name: trainedHere(), reference: asked(trainedHere(), cells), model: path, cells: its_cells, cells_airr: cells.airr ? given('reference_airr', settings) : []]
    }
    all = named.mix(own)

    models = all.unique { m -> m.model_name }
    INSPECT_MODEL(models.map { m -> [m.model_name, m.model, stamp(m.model), m.origin ?: ''] }, settings.subMap(['trust_models']), code)
    inspected = put(models, 'card', INSPECT_MODEL.out.card, 'model_name')
        .map { m -> m + parse(m.card.text).subMap(['env', 'fault']) }
        .branch { m ->
            faulty: m.fault
            sound: true
        }
    TRY_MODEL(inspected.sound.map { m -> [m.model_name, m.env, m.model, m.card] }, code)
    // Of a trial that the machine ended, each time, there is no card but the one before
    tried = inspected.sound.map { m -> [m.model_name, m.card] }
        .join(TRY_MODEL.out.card, remainder: true)
        .map { name, card, again -> [name, [card: again ?: card, untried: again ? null : untried(name)]] }
        .mix(inspected.faulty.map { m -> [m.model_name, [card: m.card, untried: null]] })
    known = put(all, 'tried', tried, 'model_name').map { m ->
        def card = parse(m.tried.card.text)
        m + m.tried + [env: card.env, hierarchical: card.hierarchy != null]
    }

    // A reference is a record of its own: [reference, model, cells, cells_airr, card, env, prepared, source, fault, warnings, latent]
    references = known.unique { m -> m.reference }.map { m -> m.subMap(['reference', 'model', 'cells', 'cells_airr', 'card', 'env']) }
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
        distinct.map { r -> [r.cells_alone, r.env, alignedSize(r.prepared.resolve('aligned.zarr'), 0), r.prepared, r.model, r.card] },
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
        settings.subMap(['seed']),
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
    mappings = put(
        known.filter { m -> m.id },
        'reference_cells',
        prepared.mix(sought.found.map { r -> r + told(r.place) }).map { r -> [r.reference, r.subMap(['source', 'fault', 'warnings'])] },
        'reference',
    )
    cards = tried.map { _name, found -> found.card }
    references = named.map { m -> [m.reference] }.unique().join(scaled) // and not what is measured for the model's folder alone
    trained = saved
}

// What the model that a run trains is called
def trainedHere() {
    return 'the reference trained in this run'
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

// Which cells of which model are asked for
def asked(model, cells) {
    return [model: model, request: toJson(cells.sort())]
}

// The cells of a reference, whatever of their labels is asked for
def withoutLabels(reference) {
    return reference + [request: toJson(parse(reference.request).findAll { what, _value -> what != 'transfer_keys' }.sort())]
}

def untried(name) {
    return "The model '${name}' was loaded and tried by TRY_MODEL, which ended without a word, as where memory or time did not suffice: see its log in the work directory that pipeline_info/trace.txt names.".toString()
}
