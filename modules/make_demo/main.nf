// Real data to try everything on: the PBMCs that scanpy ships, as an atlas and three queries unequal in genes
process MAKE_DEMO {
    label 'process_essential'

    input:
    val seed
    val code

    output:
    path 'demo/datasets.yaml', emit: sheet
    path 'demo/reference.h5ad', emit: atlas

    script:
    "make_demo.py --outdir demo --seed ${seed}"

    // A stub run has the sheet of a real one
    stub:
    "make_demo.py --outdir demo --seed ${seed}"
}
