// What the report shows of one mapping: its figures, its pictures, its accuracy where the truth is known
process QC_MAPPING {
    tag "${id}"

    input:
    tuple val(id), val(size), path(plan), path(query, stageAs: 'query'), path(obs_table, stageAs: 'obs_table'), path(prepared, stageAs: 'prepared'), path(mapped, stageAs: 'mapped'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(id), path("${id}"), emit: qc, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    qc_mapping.py --plan ${plan} --query query --prepared prepared --mapped mapped ${reference ? '--reference reference' : ''} \\
        ${obs_table ? '--obs-table obs_table' : ''} --threshold ${settings.unknown_threshold} --output ${id} --fault ${id}.fault.json
    """

    stub:
    """
    mkdir ${id}
    touch ${id}/mapping.json
    """
}
