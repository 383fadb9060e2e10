// A reference that surgery can map onto, trained on an atlas; and its own cells in it, if a hierarchy is learned from them
process TRAIN_REFERENCE {
    label 'process_essential'
    label 'process_gpu'
    ext env: { env }

    input:
    tuple path(aligned), path(settings), path(gmt, stageAs: 'gmt'), val(env), val(hierarchy), val(size)
    val code

    output:
    path 'reference_model', emit: model
    path 'reference_embedding.zarr', emit: embedding, optional: true

    script:
    """
    train_reference.py --aligned ${aligned} --settings ${settings} ${gmt ? '--gmt gmt' : ''} \\
        --model reference_model ${hierarchy ? '--embedding reference_embedding.zarr' : ''}
    """

    stub:
    """
    mkdir reference_model ${hierarchy ? 'reference_embedding.zarr' : ''}
    touch reference_model/model.pt
    """
}
