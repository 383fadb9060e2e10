// The latent of a reference's own cells, by the model as it is
process EMBED_REFERENCE {
    tag "${reference.model}"
    label 'process_gpu'
    ext env: { env }

    input:
    tuple val(reference), val(env), val(size), path(prepared, stageAs: 'prepared'), path(model, stageAs: 'model/*'), path(card)
    val settings
    val code

    output:
    tuple val(reference), path('latent.npz'), emit: latent

    script:
    """
    embed_reference.py --aligned prepared/aligned.zarr --model ${model} --card ${card} --seed ${settings.seed} --output latent.npz
    """

    stub:
    """
    touch latent.npz
    """
}
