// Mappings that share a task. A bundle is a list of records: of small mappings onto one model and its same cells, or of one alone. Each
// step takes bundles as its tasks, and hands on of each what has a result

include { toJson } from './functions'

// A bundle as a task: [ids, size, the options of each mapping, their files]. `options` gives a record's own options by the names that
// the step's command has for them: values, and files or folders, which the task has as inputs/1, inputs/2 and so on
def asTask(bundle, options) {
    def inputs = []
    def told = bundle.collectEntries { m -> [m.id, options.call(m).findAll { _name, value -> value }.collectEntries { name, value -> [name, staged(value, inputs)] }] }
    return [bundle*.id, sizeOf(bundle*.size), toJson(told), inputs]
}

def staged(value, inputs) {
    if (!(value instanceof java.nio.file.Path)) {
        return value
    }
    if (!(value in inputs)) {
        inputs << value
    }
    return "inputs/${inputs.indexOf(value) + 1}".toString()
}

// What a task asks for by: its largest mapping for the memory, all of them for the time
def sizeOf(sizes) {
    def facts = ['bytes', 'cells', 'genes', 'values', 'passes'].collectEntries { key -> [key, sizes.collect { size -> size?.get(key) ?: 0 }] }
    return facts.collectEntries { key, values -> [key, values.max()] } + [mappings: sizes.size()] +
        ['bytes', 'cells', 'passes'].collectEntries { key -> ["all_${key}".toString(), facts[key].sum()] }
}

// What a task is called by
def titleOf(ids) {
    return ids.size() == 1 ? ids[0] : "${ids[0]} and ${ids.size() - 1} more"
}

// What became of bundles in a step. `results` are what its tasks gave: [ids, files, …, faults]; `names` say under what name records have
// each of these files, and what a file's own name has behind the mapping's id. The first is there when all others are. Gives of each
// bundle [over, done, left, faults]: records with whatever they will have, those of them that go on, those that were killed beside
// others, and files
def settled(bundles, results, names) {
    return bundles
        .map { bundle -> [bundle*.id, bundle] }
        .join(results.map { found -> [found[0], found.drop(1)] }, remainder: true)
        .map { _ids, bundle, found ->
            def ended = bundle.collect { m -> [m, resultsOf(m.id, found ?: [], names + [fault: '.fault.json'])] }
            def whole = names.keySet().first()
            def left = ended.findAll { _m, files -> !files[whole] && !files.fault && bundle.size() > 1 }
            [
                over: (ended - left).collect { m, files -> m + files },
                done: ended.findAll { _m, files -> files[whole] && !files.fault }.collect { m, files -> m + files },
                left: left.collect { m, _files -> m },
                faults: ended.findAll { _m, files -> files.fault }.collect { _m, files -> files.fault },
            ]
        }
}

def resultsOf(id, found, names) {
    return [names.keySet().toList(), found]
        .transpose()
        .collectEntries { name, files -> [name, files.find { path -> path.name == id + names[name] }] }
        .findAll { _name, path -> path }
}

// The bundles that go on after a step, and the mappings that it left undone, each by itself
def goingOn(ended) {
    return ended.map { step -> step.done }.filter { bundle -> bundle }
}

def leftAlone(ended) {
    return ended.flatMap { step -> step.left }.map { m -> [m] }
}
