// The query as it came, with its embedding and what the model predicts
process EXPORT_EMBEDDING {
    tag "${id}"

    input:
    tuple val(id), val(size), path(plan), path(query, stageAs: 'query'), path(mapped, stageAs: 'mapped')
    val code

    output:
    tuple val(id), path("${id}.zarr"), emit: query, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    export_embedding.py --plan ${plan} --query query --embedding mapped/embedding.zarr \\
        --output ${id}.zarr --fault ${id}.fault.json
    """

    stub:
    """
    mkdir ${id}.zarr
    touch ${id}.zarr/.zgroup
    """
}
