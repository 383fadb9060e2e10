// What mappings stand on

include { INSPECT_MODEL } from '../modules/inspect_model'
include { TRY_MODEL     } from '../modules/try_model'

include { CELLS } from './cells'

include { given ; parse ; put ; stamp ; toJson ; trainedHere } from '../modules/functions'

// Every distinct model inspected and tried once, and every distinct reference's cells put into its latent space. Emits
//   mappings    the records with model_name, card, untried, env, hierarchical, most_in_memory, reference, and reference_cells: [source, fault, warnings]
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
        .combine(atlas.ifEmpty([[], null]).map { path, _origin -> [path] })
        .map { m, trained_here, its_cells -> m + (m.row.model ? [:] : [model: trained_here]) + (m.row.cells.trained ? [cells: its_cells] : [:]) }
        .map { m -> m + (m.row.query_embedding && m.unfetched ? [origin: toJson([fault: m.unfetched])] : [:]) }
        .map { m -> m + [model_name: m.row.model ?: trainedHere(), reference: asked(m.row.model ?: trainedHere(), m.row.cells + [origin: m.cells_origin])] }
    // It is described and measured whether a row is mapped onto it or not
    own = trained.combine(atlas).combine(trainer).map { path, its_cells, origin, about ->
        def cells = parse(about.text).cells + [origin: origin]
        [model_name: trainedHere(), reference: asked(trainedHere(), cells), model: path, cells: its_cells, cells_airr: cells.airr ? given('reference_airr', settings) : []]
    }
    all = named.mix(own)

    models = all.unique { m -> m.model_name }
    // Cells that bring their embedding stand for the model that made it
    INSPECT_MODEL(
        models.map { m ->
            def brought = m.row?.query_embedding
            def path = brought ? m.cells : m.model
            [m.model_name, path, stamp(path), m.origin ?: '', brought ? m.reference.request : '']
        },
        settings.subMap(['trust_models']),
        code,
    )
    inspected = put(models, 'card', INSPECT_MODEL.out.card, 'model_name')
        .map { m -> m + parse(m.card.text).subMap(['env', 'fault']) }
        .branch { m ->
            untryable: m.fault || m.row?.query_embedding
            sound: true
        }
    TRY_MODEL(inspected.sound.map { m -> [m.model_name, m.env, m.model, m.card] }, code)
    // Of a trial that the machine ended, each time, there is no card but the one before
    tried = inspected.sound.map { m -> [m.model_name, m.card] }
        .join(TRY_MODEL.out.card, remainder: true)
        .map { name, card, again -> [name, [card: again ?: card, untried: again ? null : untried(name)]] }
        .mix(inspected.untryable.map { m -> [m.model_name, [card: m.card, untried: null]] })
    known = put(all, 'tried', tried, 'model_name').map { m ->
        def card = parse(m.tried.card.text)
        m + m.tried + [env: card.env, hierarchical: card.hierarchy != null, most_in_memory: card.most_in_memory]
    }

    CELLS(known, own, trained, settings, code)

    emit:
    mappings = put(known.filter { m -> m.id }, 'reference_cells', CELLS.out.found, 'reference')
    cards = tried.map { _name, found -> found.card }
    references = named.map { m -> [m.reference] }.unique().join(CELLS.out.scales) // and not what is measured for the model's folder alone
    trained = CELLS.out.trained
}

// Which cells of which model are asked for
def asked(model, cells) {
    return [model: model, request: toJson(cells.sort())]
}

def untried(name) {
    return "The model '${name}' was loaded and tried by TRY_MODEL, which ended without a word, as where memory or time did not suffice: see its log in the work directory that pipeline_info/trace.txt names.".toString()
}
