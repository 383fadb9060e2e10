// One page over all mappings, the index of what came out, and a few lines for the terminal
process REPORT {
    label 'process_essential'

    input:
    path mappings
    path plans, stageAs: 'plans/*'
    path cards, stageAs: 'cards/?.json'
    path faults, stageAs: 'faults/*'
    path qc, stageAs: 'qc/*'
    path references, stageAs: 'references/?.json'
    path joint, stageAs: 'joint/*'
    val passed
    path config
    val settings
    val code

    output:
    path 'report/multiqc_report.html', emit: page
    path 'report/mappings.csv', emit: index
    path 'report/label_agreement.csv', emit: agreement, optional: true
    path 'report/summary.txt', emit: summary
    path 'report/software_versions.yml', emit: versions
    path 'report/ro-crate-metadata.json', emit: crate
    path 'report/failed.txt', emit: failed

    script:
    """
    cat > passed.json <<'END_OF_PASSED'
    ${passed}
    END_OF_PASSED
    cat > outdir.txt <<'END_OF_OUTDIR'
    ${settings.outdir}
    END_OF_OUTDIR
    cat > title.txt <<'END_OF_TITLE'
    ${settings.multiqc_title ?: 'refmap'}
    END_OF_TITLE

    mkdir -p plans cards faults qc references joint
    write_report.py --mappings ${mappings} --plans plans --cards cards --faults faults --qc qc --references references --joint joint \\
        --passed passed.json --config ${config} --title "\$(cat title.txt)" --outdir "\$(cat outdir.txt)" --output report
    """

    stub:
    """
    cat > passed.json <<'END_OF_PASSED'
    ${passed}
    END_OF_PASSED

    mkdir report
    touch report/multiqc_report.html report/mappings.csv report/summary.txt report/software_versions.yml report/ro-crate-metadata.json
    echo 0 > report/failed.txt
    """
}
