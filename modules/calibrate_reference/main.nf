// The scale that a reference's own cells set: how far from it is far, how often its labels err; and its UMAP
process CALIBRATE_REFERENCE {
    tag "${reference.model}"
    label 'process_medium'

    input:
    tuple val(reference), path(prepared, stageAs: 'prepared'), path(latent, stageAs: 'latent.npz')
    val settings
    val code

    output:
    tuple val(reference), path('reference'), emit: reference

    script:
    """
    calibrate_reference.py --prepared prepared ${latent ? '--latent latent.npz' : ''} --seed ${settings.seed} \\
        --neighbors ${settings.transfer_neighbors} --threshold ${settings.unknown_threshold} --output reference
    """

    stub:
    """
    mkdir -p reference/cells.zarr reference/sample.zarr
    echo '{"source": "counts", "fault": null, "warnings": []}' > reference/reference.json
    """
}
