// The cells of a reference: aligned to its model, or embedded already, with the labels that are to be transferred
process PREPARE_REFERENCE {
    tag "${reference.model}"

    input:
    tuple val(reference), path(cells, stageAs: 'cells'), path(airr, stageAs: 'airr'), path(model, stageAs: 'model/*'), val(stamp), path(card)
    val code

    output:
    tuple val(reference), path('reference'), emit: prepared

    script:
    """
    cat > request.json <<'END_OF_REQUEST'
    ${reference.request}
    END_OF_REQUEST

    prepare_reference.py --request request.json ${cells ? '--cells cells' : ''} ${model ? "--model ${model}" : ''} \\
        ${airr ? '--airr airr' : ''} --card ${card} --output reference
    """

    stub:
    """
    mkdir -p reference/cells.zarr reference/aligned.zarr
    echo '{"source": "counts", "fault": null, "warnings": []}' > reference/reference.json
    """
}
