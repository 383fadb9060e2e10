// A reference that the run trained, with what its cells say beside the model's files: the next run transfers labels without them
process SAVE_REFERENCE {
    label 'process_medium'

    input:
    tuple path(model, stageAs: 'trained/*'), path(card), path(prepared, stageAs: 'prepared'), path(latent, stageAs: 'latent.npz'), path(reference, stageAs: 'reference')
    val code

    output:
    path 'reference_model', emit: model

    script:
    """
    save_reference.py --model ${model} --card ${card} --prepared prepared ${latent ? '--latent latent.npz' : ''} --reference reference \\
        --output reference_model
    """

    stub:
    """
    cp -RL ${model} reference_model
    mkdir -p reference_model/refmap/cells.zarr
    echo '{}' > reference_model/refmap/reference.json
    """
}
