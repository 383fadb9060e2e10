// A reference that the run trains

include { ALIGN_REFERENCE } from '../modules/align_reference'
include { TRAIN_REFERENCE } from '../modules/train_reference'
include { LEARN_HIERARCHY } from '../modules/learn_hierarchy'

include { alignedSize ; given ; parse ; stamp ; toJson } from '../modules/functions'

// From an atlas, once the sheet is known to be right, to a model that surgery can map onto. Emits
//   model   a folder; nothing where there is no atlas
workflow REFERENCE {
    take:
    atlas
    trainer
    settings
    code

    main:
    hierarchical = settings.family == 'treearches'
    // What the training hangs on, and nothing else: another parameter must not train again
    training = toJson(settings.findAll { name, _value -> name.startsWith('reference') || name in ['family', 'seed'] }.sort())

    ALIGN_REFERENCE(
        atlas.combine(trainer).map { path, _origin, _trainer ->
            [path, given('reference_airr', settings), given('reference_gmt', settings), given('reference_genes', settings), stamp(path)]
        },
        training,
        code,
    )
    ALIGN_REFERENCE.out.aligned.subscribe { _aligned, checked -> parse(checked.text).warnings.each { warning -> log.warn(warning) } }
    TRAIN_REFERENCE(
        ALIGN_REFERENCE.out.aligned.combine(trainer).map { aligned, checked, about ->
            def size = alignedSize(aligned, settings.reference_max_epochs, null)
            [aligned, checked, given('reference_gmt', settings), parse(about.text).env, hierarchical, size]
        },
        code,
    )
    LEARN_HIERARCHY(TRAIN_REFERENCE.out.model.combine(TRAIN_REFERENCE.out.embedding), training, code)

    emit:
    model = hierarchical ? LEARN_HIERARCHY.out.model : TRAIN_REFERENCE.out.model
}
