// Labels from the reference's cells around those of the query, and how far to trust them
process TRANSFER_LABELS {
    tag "${id}"
    label 'process_medium'

    input:
    tuple val(id), val(size), path(plan), path(mapped, stageAs: 'mapped'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(id), path('labelled'), emit: mapped, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    transfer_labels.py --plan ${plan} --mapped mapped --reference reference \\
        --threshold ${settings.unknown_threshold} ${settings.transfer_probabilities ? '--probabilities' : ''} \\
        --output labelled --fault ${id}.fault.json
    """

    stub:
    """
    mkdir -p labelled/embedding.zarr labelled/results
    touch labelled/history.csv
    echo '{}' > labelled/mapping.json
    """
}
