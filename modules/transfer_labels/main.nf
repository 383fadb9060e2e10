// Labels from the reference's cells around those of queries, which are moved there before if surgery could not, and how far to trust them

include { titleOf } from '../bundles'

process TRANSFER_LABELS {
    tag "${titleOf(ids)}"
    label 'process_medium'

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(ids), path('mapped/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    transfer_labels.py --each mappings.json --reference reference \\
        --threshold ${settings.unknown_threshold} ${settings.transfer_probabilities ? '--probabilities' : ''} \\
        --output 'mapped/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p mapped/\$id/embedding.zarr mapped/\$id/results
        touch mapped/\$id/history.csv
        echo '{}' > mapped/\$id/mapping.json
    done
    """
}
