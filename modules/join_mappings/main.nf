// A reference's cells and all queries that were mapped onto it, in one file and on one page
process JOIN_MAPPINGS {
    tag "${name}"
    label 'process_medium'

    input:
    tuple val(name), val(size), val(model), path(mapped, stageAs: 'mapped/?/*'), path(qc, stageAs: 'qc/*'), path(reference, stageAs: 'reference')
    val settings
    val code

    output:
    tuple val(name), path("joint/${name}.{zarr,h5ad,html}"), emit: files
    path "joint/${name}.json", emit: about

    script:
    """
    cat > model.txt <<'END_OF_MODEL'
    ${model}
    END_OF_MODEL

    join_mappings.py --name ${name} --model model.txt --mapped mapped --qc qc ${reference ? '--reference reference' : ''} \\
        ${settings.joint_umap ? '--umap' : ''} --seed ${settings.seed} --output joint
    """

    stub:
    """
    mkdir -p joint/${name}.zarr
    touch joint/${name}.zarr/.zgroup joint/${name}.h5ad joint/${name}.html
    echo '{"name": "${name}", "model": "", "n_reference_cells": 0, "n_query_cells": 0, "n_left_out": 0, "mappings": []}' > joint/${name}.json
    """
}
