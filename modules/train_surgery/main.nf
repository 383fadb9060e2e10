// Architecture surgery, of one query or of several small ones: the updated models, the embeddings and the models' own predictions
process TRAIN_SURGERY {
    tag "${ids.size() == 1 ? ids[0] : "${ids[0]} and ${ids.size() - 1} more"}"
    label 'process_gpu'
    ext env: { env }

    input:
    tuple val(ids), val(env), val(size), val(training), path(queries, stageAs: 'queries/*'), path(model, stageAs: 'model/*'), path(card)
    val code

    output:
    path 'mapped/*', emit: mapped, optional: true
    path 'models/*', emit: model, optional: true
    path '*.fault.json', emit: fault, optional: true

    script:
    """
    cat > training.json <<'END_OF_TRAINING'
    ${training}
    END_OF_TRAINING

    train_surgery.py --queries queries --training training.json --model ${model} --card ${card} \\
        --output mapped --models models --faults .
    """

    stub:
    """
    for query in queries/*; do
        name=\$(basename \$query)
        mkdir -p mapped/\$name/embedding.zarr mapped/\$name/results models/\$name
        touch mapped/\$name/history.csv models/\$name/model.pt
        echo '{}' > mapped/\$name/mapping.json
    done
    """
}
