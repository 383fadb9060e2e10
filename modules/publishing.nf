// What is put into outdir, and by whom

include { stamp } from './functions'

// One run an outdir: two at once would publish over each other. The lock goes with the process that holds it, however that ends.
def claim(outdir) {
    def folder = file(outdir)
    if (!isHere(folder)) {
        return // an object store has no locks
    }
    folder.mkdirs()
    def lock = new RandomAccessFile(folder.resolve('.refmap.lock').toFile(), 'rw')
    def held
    try {
        held = lock.channel.tryLock()
    } catch (IOException _e) {
        log.warn("The file system of --outdir '${outdir}' has no locks: see to it that no other run writes there.")
        return
    }
    if (!held) {
        error("Another run is writing to --outdir '${outdir}': wait for its end, or choose another folder.")
    }
    workflow.onComplete { lock.close() }
}

// A file system of this machine, not an object store
def isHere(path) {
    return path.fileSystem == java.nio.file.FileSystems.default
}

// Put a file or folder in its place below outdir, whole or not at all, and return that place: a copy is made beside it, which
// then takes its name. publishDir copies a folder file by file into its place, and a run that is killed leaves half of it there;
// a process would compete with the tasks for CPUs.
def publish(result, name) {
    def place = file(params.outdir).resolve(name)
    try {
        if (!isHere(place)) {
            result.copyTo(place) // an object store renames nothing
        } else if (!place.exists() || look(place) != look(result)) {
            replace(result, place)
        }
    } catch (IOException e) {
        error("${place} could not be written (${e.message}): see to the disk or the rights, then run again with -resume.")
    }
    return place
}

def replace(result, place) {
    place.parent.mkdirs()
    def (partial, replaced) = ['partial', 'replaced'].collect { state -> place.resolveSibling(".${place.name}.${state}") }
    discard(partial)
    discard(replaced)
    if (params.publish_dir_mode == 'symlink') {
        java.nio.file.Files.createSymbolicLink(partial, result)
    } else {
        imitate(result, partial, params.publish_dir_mode == 'link')
    }
    if (place.exists()) {
        java.nio.file.Files.move(place, replaced)
    }
    java.nio.file.Files.move(partial, place)
    discard(replaced)
}

// Where --cache keeps something for other runs; null where there is no cache, or one in an object store, which renames nothing
def kept(name, settings) {
    def folder = settings.cache ? file(settings.cache) : null
    return folder && isHere(folder) ? folder.resolve(name) : null
}

// Keep a folder for other runs at its place, whole or not at all, whoever else keeps the same at the same time; return where it lies
def keep(result, place) {
    def partial = place.resolveSibling(".${place.name}.${UUID.randomUUID()}")
    try {
        if (!place.exists()) {
            place.parent.mkdirs()
            imitate(result, partial, false)
            java.nio.file.Files.move(partial, place, java.nio.file.StandardCopyOption.ATOMIC_MOVE)
        }
    } catch (IOException e) {
        discard(partial)
        if (!place.exists()) {
            log.warn("${place} could not be written (${e.message}): another run will compute it again. See to the disk or the rights.")
            return result
        }
    }
    return place
}

// What tells whether a file or folder is the one that was copied, as far as sizes and dates tell
def look(path) {
    return path.isDirectory() ? stamp(path) : "${path.size()} ${path.lastModified()}".toString()
}

def discard(path) {
    if (path.isDirectory() && !java.nio.file.Files.isSymbolicLink(path)) {
        path.deleteDir()
    } else {
        java.nio.file.Files.deleteIfExists(path)
    }
}

// A copy that is as old as what it was made of, or hard links to it
def imitate(result, copy, link) {
    if (result.isDirectory()) {
        copy.mkdirs()
        result.eachFile { item -> imitate(item, copy.resolve(item.name), link) }
    } else if (link) {
        java.nio.file.Files.createLink(copy, result.toRealPath())
    } else {
        java.nio.file.Files.copy(result, copy, java.nio.file.StandardCopyOption.COPY_ATTRIBUTES)
    }
}
