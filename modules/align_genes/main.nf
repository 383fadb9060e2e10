// All that surgery needs of queries: their counts under the model's genes, in their order, their columns under the model's names; and of
// those that bring their embedding what surgery would give

include { titleOf } from '../bundles'

process ALIGN_GENES {
    tag "${titleOf(ids)}"

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), path(card)
    val code

    output:
    tuple val(ids), path('prepared/*', arity: '0..*'), path('mapped/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    align_genes.py --each mappings.json --card ${card} --output 'prepared/{}' --mapped 'mapped/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p prepared/\$id/aligned.zarr
        echo '{}' | tee prepared/\$id/plan.json > prepared/\$id/alignment.json
        if grep -q '"family": "embedding"' ${card}; then
            mkdir -p mapped/\$id/embedding.zarr mapped/\$id/results
            touch mapped/\$id/history.csv
            echo '{}' > mapped/\$id/mapping.json
        fi
    done
    """
}
