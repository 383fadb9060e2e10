// A mapped query in the hierarchy of its reference: its cells predicted, its labels placed in the tree
process UPDATE_HIERARCHY {
    tag "${meta.id}"
    label 'process_medium'
    ext env: 'scarches'
    publishDir "${params.outdir}/reference_mapping/model/dataset~${meta.dataset}", mode: params.publish_dir_mode, overwrite: true, pattern: 'file_id~*'

    input:
    tuple val(meta), path(plan), path(model, stageAs: 'model/*'), path(card), path(aligned), path(embedding, stageAs: 'mapped/*'), path(record, stageAs: 'mapped/*'), path(results, stageAs: 'mapped/*'), path(updated, stageAs: 'mapped/*')
    val code

    output:
    tuple val(meta), path('embedding.zarr'), path('mapping.json'), path('results'), emit: mapped, optional: true
    path "file_id~${meta.file_id}", emit: model, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    export OMP_NUM_THREADS=${task.cpus} MPLBACKEND=Agg
    update_hierarchy.py --plan ${plan} --card ${card} --model ${model} --aligned ${aligned} \\
        --embedding ${embedding} --mapping ${record} --results ${results} --updated-model ${updated} \\
        --output-embedding embedding.zarr --output-mapping mapping.json --output-results results \\
        --output-model file_id~${meta.file_id} --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir -p embedding.zarr results file_id~${meta.file_id}/hierarchy
    touch file_id~${meta.file_id}/model.pt file_id~${meta.file_id}/hierarchy/hierarchy.json results/tree.json
    echo '{}' > mapping.json
    """
}
