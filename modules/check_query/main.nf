// Everything that the sheet, the model's card and the query's metadata tell: faults and warnings, before any training
process CHECK_QUERY {
    tag "${id}"

    input:
    tuple val(id), val(row), path(query, stageAs: 'query'), path(obs_table, stageAs: 'obs_table'), path(id_table, stageAs: 'id_table'), path(gmt, stageAs: 'gmt'), path(airr, stageAs: 'airr'), val(stamp), path(card)
    val code

    output:
    tuple val(id), path("${id}.plan.json"), emit: plan

    script:
    """
    cat > row.json <<'END_OF_ROW'
    ${row}
    END_OF_ROW

    check_query.py --row row.json ${query ? '--query query' : ''} ${id_table ? '--id-table id_table' : ''} \\
        ${gmt ? '--gmt gmt' : ''} ${airr ? '--airr airr' : ''} ${obs_table ? '--obs-table obs_table' : ''} --card ${card} --output ${id}.plan.json
    """

    stub:
    """
    cat > row.json <<'END_OF_ROW'
    ${row}
    END_OF_ROW

    echo "{\\"row\\": \$(cat row.json), \\"faults\\": [], \\"warnings\\": []}" > ${id}.plan.json
    """
}
