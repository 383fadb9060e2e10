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
    path 'trainer.json', emit: trainer
    path 'parameters.json', emit: parameters

    script:
    checkInput(sheet ? "--sheet ${sheet}" : '', parameters, "${schema}")

    // A stub run has the mappings of a real one
    stub:
    checkInput(sheet ? "--sheet ${sheet}" : '', parameters, "${schema}")
}

// `sheet` and `schema` come as text: Nextflow quotes a path's spaces for the shell in a process, and not in a function
def checkInput(sheet, parameters, schema) {
    return """
    cat > parameters.json <<'END_OF_PARAMETERS'
    ${parameters}
    END_OF_PARAMETERS

    check_input.py ${sheet} --parameters parameters.json --schema ${schema} \\
        --output mappings.jsonl --trainer trainer.json
    """.stripIndent()
}
