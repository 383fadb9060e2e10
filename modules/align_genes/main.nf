// All that surgery needs of a query: its counts under the model's genes, in their order, its columns under the model's names
process ALIGN_GENES {
    tag "${meta.id}"

    input:
    tuple val(meta), val(size), path(plan), path(query, stageAs: 'query'), path(id_table, stageAs: 'id_table'), path(gmt, stageAs: 'gmt'), path(card)
    val code

    output:
    tuple val(meta), path("${meta.id}"), emit: prepared, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    align_genes.py --plan ${plan} --query query ${id_table ? '--id-table id_table' : ''} ${gmt ? '--gmt gmt' : ''} --card ${card} \\
        --output ${meta.id} --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir -p ${meta.id}/aligned.zarr
    cp ${plan} ${meta.id}/plan.json
    echo '{}' > ${meta.id}/alignment.json
    """
}
