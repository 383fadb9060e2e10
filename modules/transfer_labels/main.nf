// Labels from the reference's cells around those of the query, and how far to trust them
process TRANSFER_LABELS {
    tag "${meta.id}"
    label 'process_medium'

    input:
    tuple val(meta), val(size), path(plan), path(mapped, stageAs: 'mapped'), path(reference, stageAs: 'reference')
    val code

    output:
    tuple val(meta), path('labelled'), emit: mapped, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    transfer_labels.py --plan ${plan} --mapped mapped --reference reference \\
        --threshold ${params.unknown_threshold} ${params.transfer_probabilities ? '--probabilities' : ''} \\
        --output labelled --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir -p labelled/embedding.zarr labelled/results
    touch labelled/history.csv
    echo '{}' > labelled/mapping.json
    """
}
