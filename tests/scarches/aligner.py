"""Inspect models, check and align queries in the environment `core`, whose libraries this suite's lacks.

A line of JSON comes in: a mapping {"model", "query", "row", "aligned", "gmt", "airr"}, an atlas {"reference", "settings",
"aligned", "airr"}, or the cells of a model {"cells", "model", "folder", "airr"}. A line of JSON goes out: {"card", "plan", "alignment"}, {"settings"}, {"card",
"record"}, or {"error"}.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bin"))

from refmap.common.cli import read_json
from refmap.common.errors import RefmapError
from refmap.common.folders import ReferenceFolder
from refmap.query.align import align
from refmap.query.checks import check
from refmap.query.query import Query
from refmap.reference.atlas import align_reference
from refmap.reference.cells import prepare_reference
from refmap.reference.inspection import inspect_model
from rows import ROW


def prepare(asked: dict) -> dict:
    airr = Path(asked["airr"]) if asked["airr"] else None
    if "reference" in asked:
        settings = align_reference(Path(asked["reference"]), asked["settings"], Path(asked["aligned"]), airr)
        return {"settings": settings}
    if "cells" in asked:
        card = inspect_model(Path(asked["model"]), "atlas").to_json()
        request = ROW["cells"] | {"reference": "cells.h5ad", "layer": "X", "airr": airr and airr.name}
        folder = ReferenceFolder(Path(asked["folder"]))
        prepare_reference(request, Path(asked["cells"]), None, card, folder, airr)
        return {"card": card, "record": read_json(folder.record)}
    gmt = Path(asked["gmt"]) if asked["gmt"] else None
    row, query = asked["row"], Path(asked["query"])
    card = inspect_model(Path(asked["model"]), "atlas", asked["trust"]).to_json()
    plan = check(query, row, card, gmt_path=gmt, airr_path=airr)
    answer = {"card": card, "plan": plan}
    if not plan["faults"]:
        with Query(query, row["query"]) as opened:
            answer["alignment"] = align(opened, row, card, plan, Path(asked["aligned"]), airr=airr)
    return answer


for line in sys.stdin:
    try:
        with redirect_stdout(sys.stderr):  # what steps say is no answer
            answer = prepare(json.loads(line))
    except RefmapError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
