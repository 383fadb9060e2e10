// The way of a mapping, from its query to what is known of it in the end

include { ALIGN_GENES ; ALIGN_GENES as ALIGN_ALONE } from '../modules/align_genes'

include { STEPS as TOGETHER ; STEPS as ALONE } from './steps'
include { ofTraining                         } from './steps'

include { asTask ; leftAlone ; settled        } from '../modules/bundles'
include { bytesOf ; parse ; querySize ; stamp } from '../modules/functions'

// Emits records, as far as they came
//   checked   with plan and faults: all of them; with prepared where there are none
//   trained   with mapped, updated
//   exported  with exported, and h5ad where it is asked for
//   judged    with qc
// and of what was found on the way
//   passed    [id, a step that it passed]
//   faults    a file each
workflow MAPPING {
    take:
    mappings
    references
    settings
    code

    main:
    // Small mappings together; by themselves the large ones, which take far longer than what a shared task saves, and what was killed.
    // How many cells a query has is not known before it is looked at: conf/base.config takes 10 KB of its file for one, too
    asked = mappings.map { m -> m + [size: [bytes: bytesOf(m.query)]] }.branch { m ->
        large: m.size.bytes > settings.max_small_cells * 10000L
        small: true
    }
    bundles = asked.small.toList().flatMap { all -> bundled(all) }
    ALIGN_GENES(bundles.map { all -> toAlign(all) }, code)
    aligned = settled(bundles, ALIGN_GENES.out.results, [prepared: '', plan: '.plan.json', mapped: ''])
    alone = asked.large.map { m -> [m] }.mix(leftAlone(aligned))
    ALIGN_ALONE(alone.map { all -> toAlign(all) }, code)
    ended = aligned.mix(settled(alone, ALIGN_ALONE.out.results, [prepared: '', plan: '.plan.json', mapped: '']))
    checked = ended.flatMap { step -> step.over }.filter { m -> m.plan }.map { m ->
        def plan = parse(m.plan.text)
        m + [size: querySize(plan), faults: faults(plan, m.row) + (m.fault ? [parse(m.fault.text).message] : [])]
    }

    // The gate: all faults are told at once, and nothing is trained before every query has been looked at
    sound = checked.toList().flatMap { all -> announce(all) ; all.findAll { m -> m.prepared && !m.faults } }
    fit = sound.branch { m ->
        large: m.size.cells > settings.max_small_cells
        small: true
    }
    TOGETHER(fit.small.toList().flatMap { all -> bundled(all) }, references, settings, code)
    ALONE(fit.large.map { m -> [m] }.mix(TOGETHER.out.left.unique { all -> all[0].id }), references, settings, code)

    emit:
    checked = checked
    trained = TOGETHER.out.trained.mix(ALONE.out.trained)
    // Of one that was killed while its figures were drawn, what was written before, and not what was written again
    exported = TOGETHER.out.exported.mix(ALONE.out.exported).unique { m -> m.id }
    judged = TOGETHER.out.judged.mix(ALONE.out.judged)
    passed = checked.map { m -> [m.id, 'CHECK_QUERY'] }.mix(sound.map { m -> [m.id, 'ALIGN_GENES'] }, TOGETHER.out.passed, ALONE.out.passed).unique()
    faults = ended.flatMap { step -> step.faults }.mix(TOGETHER.out.faults, ALONE.out.faults)
}

// Mappings by the bundles that the sheet puts them into, in one order however they came
def bundled(mappings) {
    return mappings.groupBy { m -> m.row.bundle }.values().collect { all -> all.sort(false) { m -> m.id } }
}

// What ALIGN_GENES takes. To train or correct otherwise is no reason to align again, so it is not told how
def toAlign(all) {
    def task = asTask(all) { m ->
        // Where there are cells, the report says once what is to be said of them
        def told = m.reference_cells.source ? [] : (m.reference_cells.warnings ?: [])
        def row = m.row - ofTraining(m.row) - m.row.subMap(['bundle', 'cells', 'correction']) +
            [known_faults: [m.untried, m.unfetched ?: m.reference_cells.fault, uncorrected(m)].findAll(), known_warnings: told]
        m.subMap(['query', 'obs_table', 'id_table', 'gmt', 'airr']) + [row: row.sort()]
    }
    return task + [all.collect { m -> stamp(m.query) }, all[0].card]
}

// All that a mapping cannot be done for: its plan does not know how it is to be trained
def faults(plan, row) {
    return plan.faults + (plan.refused?.get(row.strategy) ?: [])
}

// Why a correction that is asked for by name cannot be done; null where it can
def uncorrected(m) {
    def lacks = m.row.correction == 'symphony' && !m.reference_cells.source && !m.reference_cells.fault
    return lacks ? "correction 'symphony' needs the cells of the reference: name them as reference, or set correction to auto or none." : null
}

// The faults that are known before any training, all at once
def announce(mappings) {
    def faulty = mappings.findAll { m -> m.faults }
    if (faulty) {
        def lines = faulty.collect { m -> "  ${m.dataset}/${m.file_id}:" + m.faults.collect { fault -> "\n    - ${fault}" }.join('') }
        log.warn("${faulty.size()} of ${mappings.size()} mappings cannot be done and are left out:\n${lines.sort().join('\n')}")
    }
}
