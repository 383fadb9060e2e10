// What a reference is by its contents: the name under which what its cells say is kept for other runs
process IDENTIFY_REFERENCE {
    tag "${reference.model}"

    input:
    tuple val(reference), path(cells, stageAs: 'cells'), path(airr, stageAs: 'airr'), path(model, stageAs: 'model/*'), val(stamp), path(card)
    val settings
    val code

    output:
    tuple val(reference), path('key.txt'), emit: key

    script:
    """
    cat > request.json <<'END_OF_REQUEST'
    ${reference.request}
    END_OF_REQUEST
    cat > settings.json <<'END_OF_SETTINGS'
    ${settings}
    END_OF_SETTINGS

    identify_reference.py --request request.json ${cells ? '--cells cells' : ''} ${model ? "--model ${model}" : ''} \\
        ${airr ? '--airr airr' : ''} --card ${card} --settings settings.json --code ${code} --output key.txt
    """

    stub:
    """
    find -L ${card} cells -type f 2> /dev/null | sort | xargs cat | sha256sum | cut -c 1-64 > key.txt
    """
}
