// The query as it came, with its embedding and what the model predicts
process EXPORT_EMBEDDING {
    tag "${meta.id}"

    input:
    tuple val(meta), val(size), path(plan), path(query, stageAs: 'query'), path(mapped, stageAs: 'mapped')
    val code

    output:
    tuple val(meta), path("file_id~${meta.file_id}.zarr"), emit: query, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    export_embedding.py --plan ${plan} --query query --embedding mapped/embedding.zarr \\
        --output file_id~${meta.file_id}.zarr --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir file_id~${meta.file_id}.zarr
    touch file_id~${meta.file_id}.zarr/.zgroup
    """
}
