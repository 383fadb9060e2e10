// All that surgery needs of a query: its counts under the model's genes, in their order, its columns under the model's names
process ALIGN_GENES {
    tag "${id}"

    input:
    tuple val(id), val(size), path(plan), path(query, stageAs: 'query'), path(obs_table, stageAs: 'obs_table'), path(id_table, stageAs: 'id_table'), path(gmt, stageAs: 'gmt'), path(airr, stageAs: 'airr'), path(card)
    val code

    output:
    tuple val(id), path("${id}"), emit: prepared, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    align_genes.py --plan ${plan} --query query ${id_table ? '--id-table id_table' : ''} ${gmt ? '--gmt gmt' : ''} ${airr ? '--airr airr' : ''} \\
        ${obs_table ? '--obs-table obs_table' : ''} --card ${card} --output ${id} --fault ${id}.fault.json
    """

    stub:
    """
    mkdir -p ${id}/aligned.zarr
    cp ${plan} ${id}/plan.json
    echo '{}' > ${id}/alignment.json
    """
}
