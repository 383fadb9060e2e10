// Surgery, of one mapping a task or of several small ones

include { TRAIN_SURGERY ; TRAIN_SURGERY as TRAIN_ALONE } from '../modules/train_surgery'

include { alignedSize ; put ; toJson } from '../modules/functions'

// Takes records that `bundled` has seen. Emits
//   mappings  the records with mapped and updated
//   faults    a file each
workflow SURGERY {
    take:
    mappings
    code

    main:
    ready = mappings
        .map { m -> m + [aligned_size: alignedSize(m.prepared.resolve('aligned.zarr'), m.row.train?.max_epochs)] }
        .branch { m ->
            small: m.task
            large: true
        }
    // A task starts when all of its mappings are there
    TRAIN_SURGERY(ready.small.map { m -> [m.task, m] }.groupTuple(remainder: true).map { _task, members -> together(members) }, code)

    // What a task of several left undone, because it was killed, is tried again by itself, as a large one is from the start
    settled = byId(TRAIN_SURGERY.out.mapped).mix(byId(TRAIN_SURGERY.out.fault))
    left = ready.small
        .filter { m -> m.task.groupSize > 1 }
        .map { m -> [m.id, m] }
        .join(settled, remainder: true)
        .filter { _id, m, result -> m && !result }
    TRAIN_ALONE(left.map { _id, m, _result -> m }.mix(ready.large).map { m -> together([m]) }, code)

    mapped = byId(TRAIN_SURGERY.out.mapped.mix(TRAIN_ALONE.out.mapped))
    updated = byId(TRAIN_SURGERY.out.model.mix(TRAIN_ALONE.out.model))

    emit:
    mappings = put(put(mappings, 'mapped', mapped), 'updated', updated)
    faults = TRAIN_SURGERY.out.fault.mix(TRAIN_ALONE.out.fault).flatten()
}

// What surgery alone needs of a row, and the row without it: to train otherwise is no reason to align again
def ofTraining() {
    return ['train', 'seed', 'freeze_dropout', 'strategy']
}

def withoutTraining(row) {
    return row - row.subMap(ofTraining() + 'bundle' + 'cells')
}

// All mappings that are to be done, each small one with the task of TRAIN_SURGERY that it shares with the others of its bundle: the
// training of a large one takes far longer than what a task of several saves
def bundled(mappings, most) {
    def sizes = mappings.findAll { m -> m.size.cells <= most }.countBy { m -> m.row.bundle }
    return mappings.collect { m -> m + [task: m.size.cells <= most ? groupKey("bundle ${m.row.bundle}".toString(), sizes[m.row.bundle]) : null] }
}

// Mappings as one task of TRAIN_SURGERY: in one order however they came, the largest of them for the memory, all of them for the time
def together(members) {
    def sorted = members.sort(false) { m -> m.id }
    def sizes = sorted*.aligned_size
    def size = sizes[0].collectEntries { key, _value -> [key, sizes*.get(key).max()] } + [passes: sizes*.passes.sum(), mappings: sizes.size()]
    def training = toJson(sorted.collectEntries { m -> [m.id, m.row.subMap(ofTraining())] })
    return [sorted*.id, sorted[0].env, size, training, sorted*.prepared, sorted[0].model, sorted[0].card]
}

// Folders or files of faults of one task or several: [the mapping that each is of, itself]
def byId(results) {
    return results.flatten().map { path -> [path.name.replaceFirst(/\.fault\.json$/, ''), path] }
}
