// Mapped queries in the hierarchy of their reference: their cells predicted, their labels placed in the tree

include { titleOf } from '../bundles'

process UPDATE_HIERARCHY {
    tag "${titleOf(ids)}"
    label 'process_medium'
    ext env: 'scarches'

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), path(model, stageAs: 'model/*'), path(card)
    val code

    output:
    tuple val(ids), path('mapped/*', arity: '0..*'), path('models/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    update_hierarchy.py --each mappings.json --at-once ${task.cpus} --model ${model} --card ${card} \\
        --output 'mapped/{}' --output-model 'models/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p mapped/\$id/embedding.zarr mapped/\$id/results models/\$id/hierarchy
        touch models/\$id/model.pt models/\$id/hierarchy/hierarchy.json mapped/\$id/history.csv mapped/\$id/results/tree.json
        echo '{}' > mapped/\$id/mapping.json
    done
    """
}
