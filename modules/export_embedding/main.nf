// Queries as they came, with their embeddings, what the model predicts and the labels of the reference's cells around theirs; and what
// the report shows of them: how far to trust them, their figures and pictures

include { titleOf } from '../bundles'

process EXPORT_EMBEDDING {
    tag "${titleOf(ids)}"
    label 'process_medium'

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(ids), path('exported/*.zarr', arity: '0..*'), path('exported/*.h5ad', arity: '0..*'), emit: exported
    tuple val(ids), path('qc/*', arity: '0..*'), path('labelled/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    export_embedding.py --each mappings.json --at-once ${task.cpus} ${reference ? '--reference reference' : ''} \\
        --unknown-by ${settings.unknown_by} --certainty ${settings.unknown_certainty} --threshold ${settings.unknown_threshold} \\
        ${settings.transfer_probabilities ? '--probabilities' : ''} ${task.attempt > 1 ? '--last-attempt' : ''} \\
        --output 'exported/{}.zarr' ${wantsH5ad(settings) ? "--h5ad 'exported/{}.h5ad'" : ''} --labelled 'labelled/{}' --qc 'qc/{}' \\
        --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p exported/\$id.zarr qc/\$id
        touch exported/\$id.zarr/.zgroup qc/\$id/mapping.json ${wantsH5ad(settings) ? "exported/\$id.h5ad" : ''}
        if [[ -n "${reference}" ]]; then
            mkdir -p labelled/\$id/embedding.zarr labelled/\$id/results
            touch labelled/\$id/history.csv
            echo '{}' > labelled/\$id/mapping.json
        fi
    done
    """
}

def wantsH5ad(settings) {
    return settings.output_format.contains('h5ad')
}
