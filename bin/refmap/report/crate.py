"""The run as an RO-Crate: what was mapped onto what, by which software, and where the results lie.

A Process Run Crate (Leo et al. 2024, doi:10.1371/journal.pone.0309210; https://w3id.org/ro/wfrun/process/0.5), made by ro-crate-py.
Each mapping is an action: of a query and a model, with its results or what it failed at.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from rocrate.model.contextentity import ContextEntity
from rocrate.model.data_entity import DataEntity
from rocrate.rocrate import ROCrate

from .. import __version__
from ..common.cli import write_json
from .outcomes import TRAINED_HERE, Outcome

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
# From the folder that the crate lies in, to the run's outdir.
UP = "../"


def write_crate(outcomes: list[Outcome], joint: list[dict], title: str, path: Path) -> None:
    """Write ro-crate-metadata.json of a run, to lie in pipeline_info below its outdir; paths are relative to that place.

    `joint` is what is in the joint atlases, as :func:`refmap.report.outcomes.read_joint` gives it. Queries and models are named as
    the sheet has them, models with the SHA-256 of their files.
    """
    crate = ROCrate(version="1.1")  # that of the profile
    crate.name, crate.description = title, f"{len(outcomes)} mappings of query single-cell datasets onto reference models"
    crate.root_dataset["conformsTo"] = crate.add(
        ContextEntity(crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate"})
    )
    # https://www.researchobject.org/ro-crate/specification/1.1/root-data-entity.html wants one.
    crate.root_dataset["license"] = "The terms of the queries and models that these results were made of"
    software = ContextEntity(crate, "#refmap", {"@type": "SoftwareApplication", "name": "refmap", "softwareVersion": __version__})
    crate.add(software)
    report = _result(crate, "multiqc/multiqc_report.html", "The report over all mappings")
    index = _result(crate, "reference_mapping/mappings.csv", "The index of the mappings")
    for outcome in outcomes:
        crate.root_dataset.append_to("mentions", crate.add(_action(crate, outcome, software)))
    for about in joint:
        _result(
            crate, f"reference_mapping/joint/{about['name']}.h5ad", f"{about['model']} and all queries that were mapped onto it"
        )
    crate.root_dataset["about"] = [report, index]
    write_json(path, crate.metadata.generate())


def _action(crate: ROCrate, outcome: Outcome, software: ContextEntity) -> ContextEntity:
    about = {
        "@type": "CreateAction",
        "name": f"{outcome.name} mapped onto {outcome.row['model'] or TRAINED_HERE}",
        "actionStatus": f"http://schema.org/{'Completed' if outcome.mapped else 'Failed'}ActionStatus",
    }
    action = ContextEntity(
        crate, f"#{quote(outcome.id)}", about if outcome.mapped else about | {"error": f"{outcome.stage}: {outcome.reason}"}
    )
    action["instrument"] = software
    action["object"] = [_query(crate, outcome), _model(crate, outcome)]
    if outcome.mapped:
        whats = ("The query with its embedding and labels", "The updated model", "Figures and pictures of the mapping")
        action["result"] = [_result(crate, place, f"{what}: {outcome.name}") for place, what in zip(outcome.paths(), whats)]
    return action


def _query(crate: ROCrate, outcome: Outcome) -> ContextEntity:
    return _once(crate, f"#query:{outcome.row['query']}", {"@type": "Dataset", "name": outcome.row["query"]})


def _model(crate: ROCrate, outcome: Outcome) -> ContextEntity:
    known = outcome.record or outcome.card
    about = {"@type": "Dataset", "name": outcome.row["model"] or TRAINED_HERE}
    digest = known.get("model_sha256") or known.get("sha256")
    origin = outcome.record.get("model_origin") or {}
    about |= {"sha256": digest} if digest else {}
    about |= {"url": origin["address"], "version": origin["revision"]} if origin else {}
    return _once(crate, f"#model:{about['name']}", about)


def _once(crate: ROCrate, name: str, about: dict) -> ContextEntity:
    quoted = quote(name, safe="#:/@")
    return crate.get(quoted) or crate.add(ContextEntity(crate, quoted, about))


def _result(crate: ROCrate, place: str, what: str) -> DataEntity:
    """A file or folder below the run's outdir."""
    kind = "File" if place.endswith((".csv", ".html", ".h5ad")) else "Dataset"
    return crate.add(DataEntity(crate, UP + quote(place), {"@type": kind, "name": what}))
