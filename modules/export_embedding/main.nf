// The query as it came, with its embedding and what the model predicts
process EXPORT_EMBEDDING {
    tag "${id}"

    input:
    tuple val(id), val(size), path(plan), path(query, stageAs: 'query'), path(mapped, stageAs: 'mapped')
    val settings
    val code

    output:
    tuple val(id), path("${id}.zarr"), emit: query, optional: true
    tuple val(id), path("${id}.h5ad"), emit: h5ad, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    export_embedding.py --plan ${plan} --query query --embedding mapped/embedding.zarr \\
        --output ${id}.zarr ${wantsH5ad(settings) ? "--h5ad ${id}.h5ad" : ''} --fault ${id}.fault.json
    """

    stub:
    """
    mkdir ${id}.zarr
    touch ${id}.zarr/.zgroup
    ${wantsH5ad(settings) ? "touch ${id}.h5ad" : ''}
    """
}

def wantsH5ad(settings) {
    return settings.output_format.contains('h5ad')
}
