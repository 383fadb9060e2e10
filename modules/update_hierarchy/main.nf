// A mapped query in the hierarchy of its reference: its cells predicted, its labels placed in the tree
process UPDATE_HIERARCHY {
    tag "${id}"
    label 'process_medium'
    ext env: 'scarches'

    input:
    tuple val(id), val(size), path(prepared, stageAs: 'prepared'), path(model, stageAs: 'model/*'), path(card), path(mapped, stageAs: 'mapped'), path(updated, stageAs: 'updated')
    val code

    output:
    tuple val(id), path('placed'), emit: mapped, optional: true
    tuple val(id), path("${id}"), emit: model, optional: true
    path "${id}.fault.json", emit: fault, optional: true

    script:
    """
    update_hierarchy.py --plan prepared/plan.json --aligned prepared/aligned.zarr --card ${card} --model ${model} --mapped mapped \\
        --updated-model updated --output placed --output-model ${id} --fault ${id}.fault.json
    """

    stub:
    """
    mkdir -p placed/embedding.zarr placed/results ${id}/hierarchy
    touch ${id}/model.pt ${id}/hierarchy/hierarchy.json placed/history.csv placed/results/tree.json
    echo '{}' > placed/mapping.json
    """
}
