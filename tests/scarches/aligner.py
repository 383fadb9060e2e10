"""Inspect models, check and align queries in the environment `core`, whose libraries this suite's lacks.

A line of JSON comes in: either a mapping {"model", "query", "row", "aligned", "gmt"}, or the cells of a reference {"reference",
"settings", "aligned"}. A line of JSON goes out: {"card", "plan", "alignment"}, {"settings"}, or {"error"}.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bin"))

from refmap.align import align
from refmap.cards import inspect_model
from refmap.checks import check
from refmap.errors import RefmapError
from refmap.query import Query
from refmap.reference import align_reference


def prepare(asked: dict) -> dict:
    if "reference" in asked:
        settings = align_reference(Path(asked["reference"]), asked["settings"], Path(asked["aligned"]))
        return {"settings": settings}
    gmt = Path(asked["gmt"]) if asked["gmt"] else None
    row, query = asked["row"], Path(asked["query"])
    card = inspect_model(Path(asked["model"]), "atlas", asked["trust"]).to_json()
    plan = check(query, row, card, gmt_path=gmt)
    answer = {"card": card, "plan": plan}
    if not plan["faults"]:
        with Query(query, row["query"]) as opened:
            answer["alignment"] = align(opened, row, card, plan, Path(asked["aligned"]))
    return answer


for line in sys.stdin:
    try:
        answer = prepare(json.loads(line))
    except RefmapError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
