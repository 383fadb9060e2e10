/** The tasks that a test ran. */
class Tasks {

    /** How many tasks of each process of the pipeline succeeded: [process: number]. */
    static Map<String, Integer> counts(trace) {
        def names = trace.succeeded().collect { task -> (task.name =~ /^(?:\w+:)*(\w+)/)[0][1] }
        return names.countBy { name -> name }
    }

    /** The environment of each process, on this machine or in a container: [process: environment]. */
    static Map<String, String> environments(workDir) {
        def found = [:]
        new File(workDir.toString()).eachFileRecurse { item ->
            if (item.name == '.command.run') {
                def process = (item.text =~ /### name: '(\w+)/)[0][1]
                def (_all, local, image) = (item.text =~ /containers\/activate' (\w+)|\brefmap\/(\w+):/)[0]
                found[process] = local ?: image
            }
        }
        return found.sort()
    }
}
