// Everything that the sheet, the model's card and the query's metadata tell: faults and warnings, before any training

include { titleOf } from '../bundles'

process CHECK_QUERY {
    tag "${titleOf(ids)}"

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), val(stamps), path(card)
    val code

    output:
    tuple val(ids), path('plans/*', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    check_query.py --each mappings.json --card ${card} --output 'plans/{}.plan.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p plans
        echo '{"faults": [], "warnings": []}' > plans/\$id.plan.json
    done
    """
}
