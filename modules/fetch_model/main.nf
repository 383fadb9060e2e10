// A model or its cells, brought from where an address leads to. `partial` is where the cache keeps what was cut off: a task that
// sees that folder goes on there
process FETCH_MODEL {
    tag "${address}"
    label 'process_network'

    input:
    tuple val(address), val(what), val(resolved)
    val partial
    val code

    output:
    tuple val(address), val(what), path('fetched'), emit: fetched

    script:
    """
    cat > resolved.json <<'END_OF_RESOLVED'
    ${resolved}
    END_OF_RESOLVED

    fetch_model.py --resolved resolved.json --what ${what} ${partial ? "--partial '${partial}'" : ''} --output fetched
    """

    stub:
    """
    mkdir -p fetched/content/model
    touch fetched/content/model/model.pt
    echo '{"address": "stub", "fault": null}' > fetched/origin.json
    """
}
