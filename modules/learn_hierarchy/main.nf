// A hierarchy of cell types on the latent of a reference that was just trained: the reference again, with the hierarchy in it
process LEARN_HIERARCHY {
    label 'process_essential'
    label 'process_medium'
    ext env: 'scarches'

    input:
    tuple path(model, stageAs: 'trained/*'), path(embedding)
    val settings
    val code

    output:
    path 'reference_model', emit: model

    script:
    """
    cat > settings.json <<'END_OF_SETTINGS'
    ${settings}
    END_OF_SETTINGS

    learn_hierarchy.py --model ${model} --embedding ${embedding} --settings settings.json --output reference_model
    """

    stub:
    """
    mkdir -p reference_model/hierarchy
    touch reference_model/model.pt reference_model/hierarchy/hierarchy.json
    """
}
