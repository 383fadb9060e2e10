// The scale that a reference's own cells set: how far from it is far, how often its labels err; and its UMAP
process CALIBRATE_REFERENCE {
    tag "${key[0]}"
    label 'process_medium'

    input:
    tuple val(key), path(prepared, stageAs: 'prepared'), path(latent, stageAs: 'latent.npy')
    val code

    output:
    tuple val(key), path('reference'), emit: reference

    script:
    """
    calibrate_reference.py --prepared prepared ${latent ? '--latent latent.npy' : ''} --seed ${params.seed} \\
        --neighbors ${params.transfer_neighbors} --threshold ${params.unknown_threshold} --output reference
    """

    stub:
    """
    mkdir -p reference/cells.zarr
    echo '{}' > reference/reference.json
    """
}
