// The latent of a reference's own cells, by the model as it is
process EMBED_REFERENCE {
    tag "${key[0]}"
    label 'process_gpu'
    ext env: { env }

    input:
    tuple val(key), val(env), val(size), path(prepared, stageAs: 'prepared'), path(model, stageAs: 'model/*'), path(card)
    val code

    output:
    tuple val(key), path('latent.npy'), emit: latent

    script:
    """
    embed_reference.py --aligned prepared/aligned.zarr --model ${model} --card ${card} --seed ${params.seed} --output latent.npy
    """

    stub:
    """
    touch latent.npy
    """
}
