// Queries looked at and made ready, without training: all that the sheet, the model's card and a query's metadata tell, faults and
// warnings; and where there are no faults all that surgery needs, its counts under the model's genes, in their order, its columns under
// the model's names; of those that bring their embedding what surgery would give

include { titleOf } from '../bundles'

process ALIGN_GENES {
    tag "${titleOf(ids)}"

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), val(stamps), path(card)
    val code

    output:
    tuple val(ids), path('prepared/*', arity: '0..*'), path('plans/*', arity: '0..*'), path('mapped/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    align_genes.py --each mappings.json --at-once ${task.cpus} --card ${card} ${task.attempt > 1 ? '--last-attempt' : ''} --plan 'plans/{}.plan.json' \\
        --output 'prepared/{}' --mapped 'mapped/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p plans prepared/\$id/aligned.zarr
        echo '{"faults": [], "warnings": []}' | tee plans/\$id.plan.json > prepared/\$id/plan.json
        echo '{}' > prepared/\$id/alignment.json
        if grep -q '"family": "embedding"' ${card}; then
            mkdir -p mapped/\$id/embedding.zarr mapped/\$id/results
            touch mapped/\$id/history.csv
            echo '{}' > mapped/\$id/mapping.json
        fi
    done
    """
}
