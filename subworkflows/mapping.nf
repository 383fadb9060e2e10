// The way of a mapping, from its query to what is known of it in the end

include { CHECK_QUERY ; CHECK_QUERY as CHECK_ALONE } from '../modules/check_query'

include { STEPS as TOGETHER ; STEPS as ALONE } from './steps'
include { ofTraining                         } from './steps'

include { asTask ; goingOn ; leftAlone ; settled } from '../modules/bundles'
include { parse ; querySize ; stamp              } from '../modules/functions'

// Emits records, as far as they came
//   checked   with plan and faults: all of them
//   trained   with prepared, mapped, updated
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
    asked = mappings.toList().flatMap { all -> bundled(all) }
    CHECK_QUERY(asked.map { all -> toCheck(all) }, code)
    looked = settled(asked, CHECK_QUERY.out.results, [plan: '.plan.json'])
    unseen = leftAlone(looked)
    CHECK_ALONE(unseen.map { all -> toCheck(all) }, code)
    checked = goingOn(looked.mix(settled(unseen, CHECK_ALONE.out.results, [plan: '.plan.json']))).flatMap().map { m ->
        def plan = parse(m.plan.text)
        m + [size: querySize(plan), faults: faults(plan, m.row)]
    }

    // The gate: all faults are told at once, and nothing is trained before every query has been looked at
    sound = checked.toList().flatMap { all -> announce(all) ; all.findAll { m -> !m.faults } }.branch { m ->
        large: m.size.cells > settings.max_small_cells
        small: true
    }

    // Small mappings together; by themselves the large ones, which take far longer than what a shared task saves, and what was killed
    TOGETHER(sound.small.toList().flatMap { all -> bundled(all) }, references, settings, code)
    ALONE(sound.large.map { m -> [m] }.mix(TOGETHER.out.left.unique { all -> all[0].id }), references, settings, code)

    emit:
    checked = checked
    trained = TOGETHER.out.trained.mix(ALONE.out.trained)
    // Of one that was killed while its figures were drawn, what was written before, and not what was written again
    exported = TOGETHER.out.exported.mix(ALONE.out.exported).unique { m -> m.id }
    judged = TOGETHER.out.judged.mix(ALONE.out.judged)
    passed = checked.map { m -> [m.id, 'CHECK_QUERY'] }.mix(TOGETHER.out.passed, ALONE.out.passed).unique()
    faults = TOGETHER.out.faults.mix(ALONE.out.faults)
}

// Mappings by the bundles that the sheet puts them into, in one order however they came
def bundled(mappings) {
    return mappings.groupBy { m -> m.row.bundle }.values().collect { all -> all.sort(false) { m -> m.id } }
}

// What CHECK_QUERY takes. To train or correct otherwise is no reason to align again, so it is not told how
def toCheck(all) {
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
