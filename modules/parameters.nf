// The parameters of a run

include { parse } from './functions'

def schema() {
    return parse(file("${projectDir}/nextflow_schema.json").text)
}

// The parameters by the types of the schema: on the command line all are text, of which some versions of Nextflow make numbers
// and some do not. What is not of its type is left as it is, for CHECK_INPUT to refuse. The demo brings its own atlas, whose
// columns are known.
def parameters() {
    def types = schema()['$defs'].values().collectEntries { group -> group.properties.collectEntries { name, about -> [name, about.type] } }
    def typed = params.collectEntries { name, value -> [name, ofType(value, types[name])] }
    return typed.demo == true ? typed + [reference_batch_key: 'batch', reference_labels_key: 'bulk_labels'] : typed
}

def ofType(value, type) {
    def text = value == null ? '' : value.toString()
    if (type == 'boolean' && text.toLowerCase() in ['true', 'false']) {
        return text.toBoolean()
    }
    if (type == 'integer' && text ==~ /[-+]?\d+/) {
        return text.toLong()
    }
    if (type == 'number' && text.isDouble()) {
        return text.toDouble()
    }
    return type == 'string' && value instanceof Number ? text : value
}

// The text of --help, from the schema that all defaults come from
def helpText() {
    def lines = [
        "refmap ${workflow.manifest.version}: ${workflow.manifest.description}", '',
        'nextflow run refmap --input datasets.yaml --outdir results [-profile docker,slurm,gpu,...]',
    ]
    schema()['$defs'].each { _key, group ->
        lines << '' << group.title
        group.properties.each { name, about ->
            def value = about.containsKey('default') ? " [${about.default}]" : ''
            lines << "  --${name.padRight(28)} ${about.description}${value}"
        }
    }
    return lines.join('\n')
}

// The table of --list_references, from the list that anyone may add to
def referencesText() {
    def path = file("${projectDir}/assets/references.yml")
    def head = ['name', 'address', 'organism', 'tissue', 'genes', 'batch', 'labels', 'licence']
    def known = new org.yaml.snakeyaml.Yaml().load(path.text)
    known.eachWithIndex { reference, number ->
        def lacking = ['name', 'address'].findAll { key -> !reference[key] }
        def unknown = reference.keySet() - head
        if (lacking || unknown) {
            def what = lacking ? "lacks '${lacking[0]}'" : "has '${unknown[0]}'"
            error("${path}: entry ${number + 1} ${what}: it has a name and an address, and may have ${head.drop(2).join(', ')}.")
        }
    }
    def rows = [head] + known.collect { reference -> head.collect { key -> (reference[key] ?: '?').toString() } }
    def widths = head.indices.collect { column -> rows.collect { row -> row[column].size() }.max() }
    return rows.collect { row -> [row, widths].transpose().collect { text, width -> text.padRight(width) }.join('  ').trim() }.join('\n')
}
