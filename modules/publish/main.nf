include { publish } from './functions'

// Puts a result in its place below outdir, whole or not at all. Never cached: a resumed run looks whether it is still there.
process PUBLISH {
    tag "${place}"
    executor 'local'
    memory 100.MB
    cache false
    errorStrategy 'finish'

    input:
    tuple val(result), val(place)

    output:
    val place

    exec:
    publish(result, file(params.outdir).resolve(place), params.publish_dir_mode)

    // Done for real in a stub run too
    stub:
    publish(result, file(params.outdir).resolve(place), params.publish_dir_mode)
}
