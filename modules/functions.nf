// What main.nf needs of plain Groovy

// A JSON text as a map
def parse(text) {
    return new groovy.json.JsonSlurper().parseText(text)
}

def toJson(value) {
    return groovy.json.JsonOutput.toJson(value)
}

// The parameters; the demo brings its own atlas, whose columns are known
def parameters() {
    return params.demo ? params + [reference_batch_key: 'batch', reference_labels_key: 'bulk_labels'] : params
}

// A file or folder that a parameter names
def given(parameter) {
    def name = params[parameter]
    if (!name) {
        return []
    }
    def path = file(name, glob: false)
    if (!path.exists()) {
        error("--${parameter} is '${name}', where there is no file: check the path.")
    }
    return path
}

// What the training of a reference hangs on, and nothing else: another parameter must not train it again
def referenceSettings() {
    return toJson(parameters().findAll { name, _value -> name.startsWith('reference') || name in ['family', 'seed'] }.sort())
}

// A path of the sheet: from where the run was started, else from beside the sheet; [] where there is nothing
def located(name, sheet) {
    if (!name) {
        return []
    }
    try {
        def here = file(name, glob: false)
        if (here.exists()) {
            return here
        }
        def beside = sheet.resolveSibling(name)
        return beside.exists() ? beside : []
    } catch (Exception e) {
        // A kind of URI that this Nextflow has no plugin for, or a place that it cannot reach: the row's fault alone
        log.warn("${name} cannot be reached: ${e.message}")
        return []
    }
}

// What surgery alone needs of a row, and the row without it: to train otherwise is no reason to align again
def ofTraining() {
    return ['train', 'seed', 'freeze_dropout', 'strategy']
}

def training(row) {
    return row.subMap(ofTraining())
}

def withoutTraining(row) {
    return toJson((row - row.subMap(ofTraining() + 'bundle' + 'cells')).sort())
}

// The plan of a mapping with all that it cannot be done for: the plan itself does not know how it is to be trained
def judged(plan, row) {
    def refused = plan.refused?.get(row.strategy)
    return refused ? plan + [faults: plan.faults + refused] : plan
}

// Which cells of a reference a key means, whatever of their labels it asks for
def sameCells(key) {
    def (name, cells) = key
    return [name, toJson(parse(cells).findAll { what, _value -> what != 'transfer_keys' }.sort())]
}

// The first of some keys in the order of their text, and what belongs to it: the same in every run
def firstOf(keys, values) {
    def first = keys.indices.min { index -> keys[index].toString() }
    return [keys[first], values[first]]
}

// What tells one state of a folder from another; Nextflow itself looks no further than the folder's own date
def stamp(path) {
    if (!path || !path.isDirectory()) {
        return ''
    }
    def facts = []
    path.eachFileRecurse { item ->
        // A link that leads nowhere has neither size nor date
        if (item.exists() && !item.isDirectory()) {
            facts << "${path.relativize(item)} ${item.size()} ${item.lastModified()}".toString()
        }
    }
    return facts.sort().join('\n').md5()
}

// A hash of all the code and the locks: an input of every task, because Nextflow sees the script that a task names and
// not the package behind it
def codeVersion() {
    def facts = []
    ['bin', 'containers'].each { folder ->
        file("${projectDir}/${folder}").eachFileRecurse { item ->
            if (item.name.endsWith('.py') || item.name == 'requirements.lock') {
                facts << "${projectDir.relativize(item)} ${item.text.md5()}".toString()
            }
        }
    }
    return facts.sort().join('\n').md5()
}

// The faults that are known before any training, all at once
def announce(plans) {
    def faulty = plans.findAll { _meta, _row, plan -> plan.faults }
    if (faulty) {
        def lines = faulty.collect { meta, _row, plan ->
            "  ${meta.dataset}/${meta.file_id}:" + plan.faults.collect { fault -> "\n    - ${fault}" }.join('')
        }
        log.warn("${faulty.size()} of ${plans.size()} mappings cannot be done and are left out:\n${lines.sort().join('\n')}")
    }
}

// What a mapping's requests for memory and time follow: its cells, its genes, and the values that its matrix stores
def size(plan) {
    return [cells: plan.query?.n_cells ?: 0, genes: plan.query?.n_genes ?: 0, values: plan.query?.n_values ?: 0]
}

// The same of an aligned matrix, whose genes are the model's, and how many cells will pass through the network: all of them once
// an epoch, and twice more for their embedding and their labels. A stub's matrix has nothing
def alignedSize(store, epochs) {
    def matrix = store.resolve('X/.zattrs')
    if (!matrix.exists()) {
        return size([:]) + [passes: 0]
    }
    def (cells, genes) = parse(matrix.text).shape
    return [cells: cells, genes: genes, values: parse(store.resolve('X/data/.zarray').text).shape[0], passes: cells * ((epochs ?: 0) + 2)]
}

// Which task of TRAIN_SURGERY each small mapping goes to, with how many others; the training of a large one takes far longer than
// what a task of several saves
def tasks(plans) {
    def small = plans.findAll { _meta, _row, plan -> !plan.faults && size(plan).cells <= (params.max_small_cells as Integer) }
    def sizes = small.countBy { _meta, row, _plan -> row.bundle }
    return small.collectEntries { meta, row, _plan -> [meta.id, groupKey(row.bundle, sizes[row.bundle])] }
}

// Mappings as one task of TRAIN_SURGERY: in one order however they came, the largest of them for the memory, all of them for the time
def together(members) {
    def sorted = members.sort(false) { member -> member.meta.id }
    def sizes = sorted*.size
    def size = sizes[0].collectEntries { key, _value -> [key, sizes*.get(key).max()] } + [passes: sizes*.passes.sum(), mappings: sizes.size()]
    def training = toJson(sorted.collectEntries { member -> [member.meta.id, member.training] })
    return [sorted*.meta, size, training, sorted*.prepared, sorted[0].model, sorted[0].card]
}

// The mapping whose folder or file of faults this is
def mappingId(path) {
    return path.name.replaceFirst(/\.fault\.json$/, '')
}

// How far each mapping came: {id: the last stage that it passed}
def furthest(passed) {
    def stages = ['CHECK_QUERY', 'ALIGN_GENES', 'TRAIN_SURGERY', 'UPDATE_HIERARCHY', 'TRANSFER_LABELS', 'EXPORT_EMBEDDING']
    return toJson(passed.sort { a, b -> stages.indexOf(a[1]) <=> stages.indexOf(b[1]) ?: a[0] <=> b[0] }.collectEntries())
}

// The text of --help, from the schema that all defaults come from
def helpText() {
    def schema = parse(file("${projectDir}/nextflow_schema.json").text)
    def lines = [
        "refmap ${workflow.manifest.version}: ${workflow.manifest.description}", '',
        'nextflow run refmap --input datasets.yaml --outdir results [-profile docker,slurm,gpu,...]',
    ]
    schema['$defs'].each { _key, group ->
        lines << '' << group.title
        group.properties.each { name, about ->
            def value = about.containsKey('default') ? " [${about.default}]" : ''
            lines << "  --${name.padRight(28)} ${about.description}${value}"
        }
    }
    return lines.join('\n')
}
