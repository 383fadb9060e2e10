// What the expression of a query's cells says beside their place in the latent space: groups that the reference lacks, a second label,
// and how certain labels are
process COMPARE_EXPRESSION {
    tag "${id}"
    label 'process_medium'

    input:
    tuple val(id), val(size), path(plan), path(prepared, stageAs: 'prepared'), path(mapped, stageAs: 'mapped'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(id), path('compared'), emit: mapped, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    compare_expression.py --plan ${plan} --prepared prepared --mapped mapped --reference reference --unknown-by ${settings.unknown_by} \\
        --certainty ${settings.unknown_certainty} --threshold ${settings.unknown_threshold} --output compared --fault ${id}.fault.json
    """

    stub:
    """
    mkdir -p compared/embedding.zarr compared/results
    touch compared/history.csv
    echo '{}' > compared/mapping.json
    """
}
