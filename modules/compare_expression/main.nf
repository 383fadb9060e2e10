// What the expression of queries' cells says beside their place in the latent space: groups that the reference lacks, a second label,
// and how certain labels are

include { titleOf } from '../bundles'

process COMPARE_EXPRESSION {
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

    compare_expression.py --each mappings.json --reference reference --unknown-by ${settings.unknown_by} \\
        --certainty ${settings.unknown_certainty} --threshold ${settings.unknown_threshold} \\
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
