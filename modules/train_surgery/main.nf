// Architecture surgery: the updated models, the embeddings and the models' own predictions

include { titleOf } from '../bundles'

process TRAIN_SURGERY {
    tag "${titleOf(ids)}"
    label 'process_gpu'
    ext env: { env }

    input:
    tuple val(ids), val(size), val(mappings), path(inputs, stageAs: 'inputs/?'), val(env), path(model, stageAs: 'model/*'), path(card)
    val code

    output:
    tuple val(ids), path('mapped/*', arity: '0..*'), path('models/*', arity: '0..*'), path('*.fault.json', arity: '0..*'), emit: results

    script:
    """
    cat > mappings.json <<'END_OF_MAPPINGS'
    ${mappings}
    END_OF_MAPPINGS

    train_surgery.py --each mappings.json --at-once ${task.accelerator ? 1 : task.cpus} --model ${model} --card ${card} \\
        --output 'mapped/{}' --updated-model 'models/{}' --fault '{}.fault.json'
    """

    stub:
    """
    for id in ${ids.join(' ')}; do
        mkdir -p mapped/\$id/embedding.zarr mapped/\$id/results models/\$id
        touch mapped/\$id/history.csv models/\$id/model.pt
        echo '{}' > mapped/\$id/mapping.json
    done
    """
}
