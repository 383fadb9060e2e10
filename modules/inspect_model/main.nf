// What a model is and expects, read without running its pickle; or what an embedding is, by the cells that bring it along
process INSPECT_MODEL {
    tag "${name}"

    input:
    tuple val(name), path(model, stageAs: 'model/*'), val(stamp), val(origin), val(embedding)
    val settings
    val code

    output:
    tuple val(name), path('card.json'), emit: card

    script:
    """
    cat > name.txt <<'END_OF_NAME'
    ${name}
    END_OF_NAME
    cat > origin.json <<'END_OF_ORIGIN'
    ${origin ?: 'null'}
    END_OF_ORIGIN

    cat > embedding.json <<'END_OF_EMBEDDING'
    ${embedding ?: 'null'}
    END_OF_EMBEDDING

    inspect_model.py ${model ? "--model ${model}" : ''} --shown-as "\$(cat name.txt)" ${settings.trust_models ? '--trust-models' : ''} \\
        --origin origin.json --embedding embedding.json --card card.json
    """

    stub:
    """
    echo '{"family": "${embedding ? 'embedding' : 'scvi'}", "env": "${embedding ? 'core' : 'scvi'}", "fault": null}' > card.json
    """
}
