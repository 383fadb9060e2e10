// What a reference is trained on: an atlas, checked as a query is, as counts or log-normalised values
process ALIGN_REFERENCE {
    label 'process_essential'

    input:
    tuple path(atlas, stageAs: 'atlas'), path(airr, stageAs: 'airr'), path(gmt, stageAs: 'gmt'), path(genes, stageAs: 'genes'), val(stamp)
    val parameters
    val code

    output:
    tuple path('aligned.zarr'), path('settings.json'), emit: aligned

    script:
    """
    cat > parameters.json <<'END_OF_PARAMETERS'
    ${parameters}
    END_OF_PARAMETERS

    align_reference.py --atlas atlas --parameters parameters.json ${airr ? '--airr airr' : ''} ${gmt ? '--gmt gmt' : ''} \\
        ${genes ? '--genes genes' : ''} --output aligned.zarr --settings settings.json
    """

    stub:
    """
    mkdir aligned.zarr
    echo '{}' > settings.json
    """
}
