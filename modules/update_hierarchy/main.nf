// A mapped query in the hierarchy of its reference: its cells predicted, its labels placed in the tree
process UPDATE_HIERARCHY {
    tag "${meta.id}"
    label 'process_medium'
    ext env: 'scarches'

    input:
    tuple val(meta), val(size), path(prepared, stageAs: 'prepared'), path(model, stageAs: 'model/*'), path(card), path(mapped, stageAs: 'mapped'), path(updated, stageAs: 'updated')
    val code

    output:
    tuple val(meta), path('placed'), emit: mapped, optional: true
    tuple val(meta), path("file_id~${meta.file_id}"), emit: model, optional: true
    path "${meta.id}.fault.json", emit: fault, optional: true

    script:
    """
    update_hierarchy.py --plan prepared/plan.json --aligned prepared/aligned.zarr --card ${card} --model ${model} --mapped mapped \\
        --updated-model updated --output placed --output-model file_id~${meta.file_id} --fault ${meta.id}.fault.json
    """

    stub:
    """
    mkdir -p placed/embedding.zarr placed/results file_id~${meta.file_id}/hierarchy
    touch file_id~${meta.file_id}/model.pt file_id~${meta.file_id}/hierarchy/hierarchy.json placed/history.csv placed/results/tree.json
    echo '{}' > placed/mapping.json
    """
}
