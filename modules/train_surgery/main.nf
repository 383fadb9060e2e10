// Architecture surgery: the updated model, the query's embedding and the model's own predictions
process TRAIN_SURGERY {
    tag "${meta.id}"
    label 'process_gpu'
    ext env: { meta.env }
    // A model with a hierarchy is not done before the query has its place in that
    publishDir "${params.outdir}/reference_mapping/model/dataset~${meta.dataset}", mode: params.publish_dir_mode, overwrite: true, pattern: 'file_id~*',
        saveAs: { name -> meta.hierarchy ? null : name }

    input:
    tuple val(meta), val(training), path(plan), path(aligned), path(alignment), path(model, stageAs: 'model/*'), path(card), path(gmt, stageAs: 'gmt')
    val code

    output:
    tuple val(meta), path('embedding.zarr'), path('history.csv'), path('mapping.json'), path('results'), emit: mapped, optional: true
    tuple val(meta), path("file_id~${meta.file_id}"), emit: model, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    cat > training.json <<'END_OF_TRAINING'
    ${training}
    END_OF_TRAINING

    export OMP_NUM_THREADS=${task.cpus}
    train_surgery.py --plan ${plan} --training training.json --aligned ${aligned} --alignment ${alignment} \\
        --model ${model} --card ${card} ${gmt ? '--gmt gmt' : ''} --updated-model file_id~${meta.file_id} \\
        --embedding embedding.zarr --history history.csv --mapping mapping.json --results results --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir embedding.zarr results file_id~${meta.file_id}
    touch history.csv file_id~${meta.file_id}/model.pt
    echo '{}' > mapping.json
    """
}
