// What the report shows of mappings: their figures, their pictures, their accuracy where the truth is known

include { titleOf } from '../bundles'

process QC_MAPPING {
    tag "${titleOf(ids)}"

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(ids), path('qc/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    qc_mapping.py --each mappings.json ${reference ? '--reference reference' : ''} --threshold ${settings.unknown_threshold} \\
        --output 'qc/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p qc/\$id
        touch qc/\$id/mapping.json
    done
    """
}
