// The sheet and the parameters, checked together: one JSON line a mapping
process CHECK_INPUT {
    label 'process_essential'

    input:
    path sheet, stageAs: 'sheet/*'
    val parameters
    path schema
    val code

    output:
    path 'mappings.jsonl', emit: mappings

    script:
    checkInput(sheet, parameters, schema)

    // A stub run has the mappings of a real one
    stub:
    checkInput(sheet, parameters, schema)
}

def checkInput(sheet, parameters, schema) {
    return """
    cat > parameters.json <<'END_OF_PARAMETERS'
    ${parameters}
    END_OF_PARAMETERS

    check_input.py ${sheet ? "--sheet ${sheet}" : ''} --parameters parameters.json --schema ${schema} --output mappings.jsonl
    """.stripIndent()
}
