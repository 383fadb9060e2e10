// The query's counts under the model's genes, in its order, and its columns under the model's names
process ALIGN_GENES {
    tag "${meta.id}"

    input:
    tuple val(meta), path(plan), path(query, stageAs: 'query'), path(id_table, stageAs: 'id_table'), path(card)
    val code

    output:
    tuple val(meta), path('aligned.zarr'), path('alignment.json'), emit: aligned, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    align_genes.py --plan ${plan} --query query ${id_table ? '--id-table id_table' : ''} --card ${card} \\
        --output aligned.zarr --alignment alignment.json --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir aligned.zarr
    echo '{}' > alignment.json
    """
}
