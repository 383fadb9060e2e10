// What the report shows of one mapping: its figures, its pictures, its accuracy where the truth is known
process QC_MAPPING {
    tag "${meta.id}"

    input:
    tuple val(meta), val(size), path(plan), path(query, stageAs: 'query'), path(prepared, stageAs: 'prepared'), path(mapped, stageAs: 'mapped'), path(reference, stageAs: 'reference')
    val code

    output:
    tuple val(meta), path("${meta.id}"), emit: qc, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    qc_mapping.py --plan ${plan} --query query --prepared prepared --mapped mapped ${reference ? '--reference reference' : ''} \\
        --threshold ${params.unknown_threshold} --output ${meta.id} --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir ${meta.id}
    touch ${meta.id}/mapping.json
    """
}
