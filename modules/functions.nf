// What the workflows share of plain Groovy: JSON, records, files and their sizes

// A JSON text as a map
def parse(text) {
    return new groovy.json.JsonSlurper().parseText(text)
}

def toJson(value) {
    return groovy.json.JsonOutput.toJson(value)
}

// Records with what a step gave for them, under a name. The results are [what records have under `key`, result]; a record that
// there is no result for ends here
def put(records, name, results, key = 'id') {
    return records
        .map { record -> [record[key], record] }
        .combine(results, by: 0)
        .map { _key, record, result -> record + [(name): result] }
}

// What the model that a run trains is called
def trainedHere() {
    return 'the reference trained in this run'
}

// A file or folder that a parameter names
def given(parameter, settings) {
    def name = settings[parameter]
    if (!name) {
        return []
    }
    def path = file(name, glob: false)
    if (!path.exists()) {
        error("--${parameter} is '${name}', where there is no file: check the path.")
    }
    return path
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

// An address that FETCH_MODEL knows, as is_address of bin/refmap/remote/addresses.py has it
def isAddress(name) {
    return name && name ==~ /(hf:\/\/|zenodo:|https?:\/\/|s3:\/\/).*/
}

// A model or its cells by the sheet. FETCH_MODEL brings what has an address; of buckets, what Nextflow cannot reach with the rights
// that it has, which may be a public one
def ofModel(name, sheet) {
    return isAddress(name) && !name.startsWith('s3://') ? [] : located(name, sheet)
}

// What tells one state of a folder from another; Nextflow itself looks no further than the folder's own date
def stamp(path) {
    if (!path || !path.isDirectory()) {
        return ''
    }
    return filesBelow(path).collect { item -> "${path.relativize(item)} ${item.size()} ${item.lastModified()}".toString() }.sort().join('\n').md5()
}

// How large a file or a folder's files are, in bytes; 0 where there is nothing
def bytesOf(path) {
    return !path ? 0 : path.isDirectory() ? (filesBelow(path).collect { item -> item.size() }.sum() ?: 0) : path.size()
}

def filesBelow(folder) {
    def files = []
    folder.eachFileRecurse { item ->
        // A link that leads nowhere has neither size nor date
        if (item.exists() && !item.isDirectory()) {
            files << item
        }
    }
    return files
}

// A hash of all the code and the locks: an input of every task, because Nextflow sees the script that a task names and
// not the package behind it
def codeVersion() {
    def facts = []
    ['bin', 'containers'].each { folder ->
        file("${projectDir}/${folder}").eachFileRecurse { item ->
            if (item.name ==~ /.*\.(py|html|css|js)|(?!test\.)\w+\.lock/) {
                facts << "${projectDir.relativize(item)} ${item.text.md5()}".toString()
            }
        }
    }
    return facts.sort().join('\n').md5()
}

// What a mapping's requests for memory and time follow: its cells, its genes, and the values that its matrix stores
def querySize(plan) {
    return [cells: plan.query?.n_cells ?: 0, genes: plan.query?.n_genes ?: 0, values: plan.query?.n_values ?: 0]
}

// The same of an aligned matrix, whose genes are the model's, and how many cells will pass through the network: all of them once
// an epoch, and twice more for their embedding and their labels. Of more than `most` values those beyond are left on disk. A stub's
// matrix has nothing
def alignedSize(store, epochs, most) {
    def matrix = store.resolve('X/.zattrs')
    if (!matrix.exists()) {
        return querySize([:]) + [passes: 0]
    }
    def (cells, genes) = parse(matrix.text).shape
    def values = parse(store.resolve('X/data/.zarray').text).shape[0]
    return [cells: cells, genes: genes, values: most ? Math.min(values, most) : values, passes: cells * ((epochs ?: 0) + 2)]
}
