"""What tasks ask for follows the size of their query, grows with every attempt, and ends at what the run may ask for at most.

The run is one of stubs, which are told sizes: a plan says so for the query, and a store of the aligned query has them.
"""

import csv
import json

import pytest
import scipy.sparse as sp
import zarr
from runs import Run, task_name

KB, GB = 1 << 10, 1 << 30
HOUR = 3_600_000  # of milliseconds, as in the trace
EPOCHS = 100

# The size of each query's file, its cells and genes, and what its matrix stores before and after its genes are aligned
QUERIES = {
    "clinic~patient_1": {"bytes": 50_000_000, "cells": 3_000, "genes": 20_000, "values": 4_500_000, "aligned": 900_000},
    "pbmc~donor_1": {"bytes": 30_000_000, "cells": 5_000, "genes": 20_000, "values": 7_500_000, "aligned": 500_000},
    "pbmc~donor_2": {"bytes": 4_000_000_000, "cells": 400_000, "genes": 30_000, "values": 600_000_000, "aligned": 200_000_000},
}
SMALL, OTHER_SMALL, LARGE = QUERIES
SHARED = f"{SMALL} and 1 more"
REFERENCE = {"cells": 60_000, "values": 30_000_000}
# Values that the model takes into memory
MOST = 150_000_000

CONFIG = """
process {
    withName: 'MAKE_DEMO' {
        afterScript = '%(grow)s'
    }
    withName: 'ALIGN_GENES' {
        afterScript = { ids.collect { id -> "cp '%(folder)s/${id}.json' 'plans/${id}.plan.json'; cp -r '%(folder)s/${id}/.' 'prepared/${id}/aligned.zarr'" }.join('; ') }
    }
    withName: 'PREPARE_REFERENCE' {
        afterScript = "cp -r '%(folder)s/reference/.' reference/aligned.zarr"
    }
    withName: 'TRY_MODEL' {
        afterScript = "sed -i 's/\\"fault\\"/\\"most_in_memory\\": %(most)s, &/' card.json"
    }
    // Killed for memory, the first time
    withName: 'TRAIN_SURGERY' {
        beforeScript = { task.attempt == 1 ? 'exit 137' : '' }
    }
}
trace.fields = 'name,status,attempt,cpus,memory,time'
trace.raw    = true
// As if this were a large machine: the executor takes no task that asks for more than it has
executor.memory = '64.GB'
"""


def write_store(folder, cells, values):
    """An aligned query of zeros, as ALIGN_GENES writes it, with room for so many values."""
    from refmap.query.align import CsrWriter

    matrix = zarr.open_group(folder, mode="w", zarr_format=2).create_group("X")
    writer = CsrWriter(matrix, (cells, 2_000), values)
    writer.append(sp.csr_matrix((cells, 2_000)))
    writer.close()
    matrix["data"].resize((values,))


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """What each task of a run asked for: {(name, attempt): (CPUs, bytes, milliseconds)}."""
    folder = tmp_path_factory.mktemp("resources")
    for name, size in QUERIES.items():
        query = {"n_cells": size["cells"], "n_genes": size["genes"], "n_values": size["values"]}
        (folder / f"{name}.json").write_text(json.dumps({"query": query, "faults": [], "warnings": []}))
        write_store(folder / name, size["cells"], size["aligned"])
    write_store(folder / "reference", REFERENCE["cells"], REFERENCE["values"])
    files = {SMALL: "patient_1.h5ad", OTHER_SMALL: "donor_1.h5ad", LARGE: "donor_2.zarr/and_more"}
    grow = "; ".join(f"truncate -s {QUERIES[name]['bytes']} demo/{file}" for name, file in files.items())
    (folder / "sizes.config").write_text(CONFIG % {"folder": folder, "most": MOST, "grow": grow})
    given = {"--mappings_per_task": 3, "--max_epochs": EPOCHS, "--max_memory": "20.GB", "--max_time": "36.h"}
    run = Run(folder, "-stub-run", "--demo", "-c", "sizes.config", *(str(item) for pair in given.items() for item in pair))
    assert run.status == 0, run.printed
    with open(run.out / "pipeline_info" / "trace.txt") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {
        (task_name(row["name"]), int(row["attempt"])): tuple(int(row[key]) for key in ("cpus", "memory", "time"))
        for row in rows
        if row["memory"].isdigit()  # VERDICT runs in Nextflow itself, and asks for nothing
    }


@pytest.mark.parametrize(
    ("aligning", "exporting", "queries"),
    [
        (f"ALIGN_GENES ({SHARED})", f"EXPORT_EMBEDDING ({SHARED})", (SMALL, OTHER_SMALL)),
        (f"ALIGN_ALONE ({LARGE})", f"EXPORT_EMBEDDING ({LARGE})", (LARGE,)),
    ],
)
def test_steps_that_read_queries_ask_by_their_size(asked, aligning, exporting, queries):
    """For the memory of those that are done at once, and the time of all: by the files before they are looked at, by the cells after that."""
    sizes, cells = ([QUERIES[query][what] for query in queries] for what in ("bytes", "cells"))
    # The large one is a folder, which has a bit more in it
    by_files = (1, 2 * GB + max(sizes) / 5, HOUR + len(sizes) * 360_000 + sum(sizes) / 1000)
    assert asked[aligning, 1] == pytest.approx(by_files, rel=1e-4)
    most_of_a_part = max(GB, 20 * KB * min(50_000, max(cells)), 2 * KB * max(cells))
    assert asked[exporting, 1] == (2, 3 * GB + most_of_a_part, HOUR + len(cells) * 60_000 + 10 * sum(cells))


def test_training_asks_by_the_values_that_are_taken_into_memory_and_by_what_it_will_see(asked):
    size = QUERIES[LARGE]
    memory = 3 * GB + KB * size["cells"] + 48 * min(size["aligned"], MOST)
    assert asked[f"TRAIN_SURGERY ({LARGE})", 1] == (2, memory, HOUR + 60_000 + size["cells"] * (EPOCHS + 2))


def test_the_embedding_of_a_reference_asks_by_its_own_cells(asked):
    memory = 3 * GB + KB * REFERENCE["cells"] + 48 * REFERENCE["values"]
    assert asked["EMBED_REFERENCE (the reference trained in this run)", 1] == (2, memory, HOUR + 2 * REFERENCE["cells"])


def test_a_task_of_several_asks_for_the_memory_of_those_at_once_and_the_time_of_all(asked):
    small, other = QUERIES[SMALL], QUERIES[OTHER_SMALL]
    # The one has more cells, the other more values; each of two CPUs has a mapping
    memory = 3 * GB + 2 * (KB * other["cells"] + 48 * small["aligned"])
    time = HOUR + 2 * 60_000 + (small["cells"] + other["cells"]) * (EPOCHS + 2)
    assert asked[f"TRAIN_SURGERY ({SHARED})", 1] == (2, memory, time)


def test_a_model_is_tried_by_one_thread(asked):
    assert asked["TRY_MODEL (the reference trained in this run)", 1] == (1, 3 * GB, HOUR)


def test_a_second_attempt_asks_for_twice_as_much(asked):
    first, second = (asked[f"TRAIN_SURGERY ({SHARED})", attempt] for attempt in (1, 2))
    assert second == (2, 2 * first[1], 2 * first[2])


def test_nothing_asks_for_more_than_the_run_may(asked):
    # Twice 10.1 GB; the time is well below its limit twice over, so that only one of the two is cut
    assert asked[f"TRAIN_SURGERY ({LARGE})", 2][1] == 20 * GB
    assert all(memory <= 20 * GB and time <= 36 * HOUR for _, memory, time in asked.values())


def test_small_queries_do_with_the_memory_of_a_laptop(asked):
    large = {key for key in asked if LARGE in key[0] or key[0].startswith("EMBED_REFERENCE")}
    first = {key: memory for key, (_, memory, _) in asked.items() if key not in large and key[1] == 1}
    assert all(memory <= 4 * GB for key, memory in first.items() if not key[0].startswith("TRAIN_REFERENCE"))
