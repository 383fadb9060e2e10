// What the address of a model or of its cells leads to just now. A run that is resumed asks again: it may have changed
process RESOLVE_ADDRESS {
    tag "${address}"
    label 'process_network'
    cache false

    input:
    tuple val(address), val(what), val(with_cells)
    val code

    output:
    tuple val(address), val(what), path('resolved.json'), emit: resolved

    script:
    """
    cat > address.txt <<'END_OF_ADDRESS'
    ${address}
    END_OF_ADDRESS

    resolve_address.py --address "\$(cat address.txt)" --what ${what} ${with_cells ? '--with-cells' : ''} --output resolved.json
    """

    stub:
    """
    echo '{"address": "${address}", "key": "${address.md5()}_${what}", "fault": null}' > resolved.json
    """
}
