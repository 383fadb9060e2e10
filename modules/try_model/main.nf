// Whether a model can be mapped onto at all, tried with a few made-up cells: its card once more, with a fault if it cannot
process TRY_MODEL {
    tag "${name}"
    label 'process_gpu'
    ext env: { env }

    input:
    tuple val(name), val(env), path(model, stageAs: 'model/*'), path(card, stageAs: 'inspected.json')
    val code

    output:
    tuple val(name), path('card.json'), emit: card

    script:
    """
    try_model.py --model ${model} --card ${card} --output card.json
    """

    stub:
    """
    cp ${card} card.json
    """
}
