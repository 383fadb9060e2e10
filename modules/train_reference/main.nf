// A reference that surgery can map onto, trained on an atlas
process TRAIN_REFERENCE {
    label 'process_essential'
    label 'process_gpu'
    ext env: { env }
    publishDir "${params.outdir}", mode: params.publish_dir_mode, overwrite: true

    input:
    tuple path(atlas, stageAs: 'atlas'), val(stamp), path(gmt, stageAs: 'gmt'), val(env)
    val settings
    val code

    output:
    path 'reference_model', emit: model

    script:
    """
    cat > settings.json <<'END_OF_SETTINGS'
    ${settings}
    END_OF_SETTINGS

    export OMP_NUM_THREADS=${task.cpus}
    train_reference.py --atlas atlas --settings settings.json ${gmt ? '--gmt gmt' : ''} --model reference_model
    """

    stub:
    """
    mkdir reference_model
    touch reference_model/model.pt
    """
}
