// Queries as they came, with their embeddings and what the model predicts

include { titleOf } from '../bundles'

process EXPORT_EMBEDDING {
    tag "${titleOf(ids)}"

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?')
    val settings
    val code

    output:
    tuple val(ids), path('exported/*.zarr', arity: '0..*'), path('exported/*.h5ad', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    export_embedding.py --each mappings.json --output 'exported/{}.zarr' ${wantsH5ad(settings) ? "--h5ad 'exported/{}.h5ad'" : ''} --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p exported/\$id.zarr
        touch exported/\$id.zarr/.zgroup ${wantsH5ad(settings) ? "exported/\$id.h5ad" : ''}
    done
    """
}

def wantsH5ad(settings) {
    return settings.output_format.contains('h5ad')
}
