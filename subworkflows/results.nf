// What a run says in the end

include { REPORT  } from '../modules/report'
include { VERDICT } from '../modules/verdict'

include { toJson  } from '../modules/functions'
include { publish } from '../modules/publishing'

// One page and one index over all mappings, once all of them are `placed`, and the exit status
workflow RESULTS {
    take:
    rows
    cards
    references
    checked
    passed
    faults
    judged
    joint
    placed
    settings
    code

    main:
    REPORT(
        rows.filter { path -> path.size() > 0 },
        checked.map { m -> m.plan }.collect(sort: true).ifEmpty([]),
        cards.collect(sort: true).ifEmpty([]),
        faults.collect(sort: true).ifEmpty([]),
        judged.map { m -> m.qc }.collect(sort: true).ifEmpty([]),
        references.filter { _reference, scale -> scale }.map { _reference, scale -> scale.resolve('reference.json') }.collect(sort: true).ifEmpty([]),
        joint.collect(sort: true).ifEmpty([]),
        passed.toList().map { all -> toJson(all.sort { step -> step.join(' ') }) },
        file("${projectDir}/assets/multiqc_config.yml"),
        settings.subMap(['outdir', 'multiqc_title']),
        code,
    )

    // The index comes last: what it names is in its place
    told = REPORT.out.page.map { path -> [path, 'multiqc/multiqc_report.html'] }
        .mix(
            REPORT.out.index.map { path -> [path, 'reference_mapping/mappings.csv'] },
            REPORT.out.agreement.map { path -> [path, 'reference_mapping/label_agreement.csv'] },
            REPORT.out.crate.map { path -> [path, 'pipeline_info/ro-crate-metadata.json'] },
            REPORT.out.versions.map { path -> [path, 'pipeline_info/software_versions.yml'] },
        )
        .combine(placed.toList().map { places -> [places] })
        .map { path, name, _places -> publish(path, name) }
    REPORT.out.summary.view { path -> path.text }
    VERDICT(REPORT.out.failed.combine(told.toList().map { places -> [places] }).map { path, _places -> path.text.trim() as Integer }.first())
}
