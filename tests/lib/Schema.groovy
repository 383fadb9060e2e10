import groovy.json.JsonSlurper

/**
 * What an output is made of, for snapshots: names, keys, columns, shapes and types, and none of the values.
 *
 * folder       [name: schema]
 * AnnData zarr [path: encoding of a group, or type and shape of an array]
 * .json        [key: type]; of a list, the types that occur in it
 * .jsonl       the same of its lines
 * .csv         [names of columns]
 * other        'file', or 'empty'
 */
class Schema {

    static Object of(item) {
        def file = new File(item.toString())
        if (file.directory) {
            def isZarr = new File(file, '.zattrs').exists()
            return isZarr ? zarr(file) : names(file).collectEntries { name -> [name, of(new File(file, name))] }
        }
        if (!file.size()) {
            return 'empty'
        }
        switch (file.name.tokenize('.').last()) {
            case 'json': return types(new JsonSlurper().parse(file))
            case 'jsonl': return types(file.readLines().collect { line -> new JsonSlurper().parseText(line) })
            case 'csv': return file.readLines().first().split(',', -1).toList()
            default: return 'file'
        }
    }

    /** All files below a folder, by their paths from it; a zarr counts as one, and the run's lock as none. */
    static List<String> files(folder) {
        def root = new File(folder.toString())
        return names(root).collectMany { name ->
            def item = new File(root, name)
            item.directory && !name.endsWith('.zarr') ? files(item).collect { path -> "$name/$path".toString() } : [name]
        }
    }

    private static List<String> names(File folder) {
        return (folder.list().toList() - '.refmap.lock').sort()
    }

    private static Object types(value) {
        switch (value) {
            case null: return 'null'
            // Counts are by names that training gives
            case Map: return value.sort().collectEntries { key, item -> [key, key == 'counts' ? 'integers by name' : types(item)] }
            case List: return value.collect { item -> types(item) }.unique().sort { item -> item.toString() }
            case CharSequence: return 'string'
            case Boolean: return 'boolean'
            case Integer: case Long: return 'integer'
            default: return 'number'
        }
    }

    private static Map zarr(File root) {
        def found = [:]
        root.eachFileRecurse { item ->
            if (item.name == '.zarray') {
                def array = new JsonSlurper().parse(item)
                // The length of a string is that of its value
                found[item.parent] = "${array.dtype.replaceFirst(/(?<=U)\d+/, '')} ${array.shape}".toString()
            } else if (item.name == '.zgroup') {
                def attributes = new File(item.parent, '.zattrs')
                found[item.parent] = attributes.exists() ? new JsonSlurper().parse(attributes)['encoding-type'] : ''
            }
        }
        return found.sort().collectEntries { path, about -> [path == root.path ? '.' : path - "$root.path/", about] }
    }
}
