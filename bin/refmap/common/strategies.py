"""How a query's batches are mapped: together, or one surgery each.

joint        one surgery of all batches
per_batch    one surgery a batch, each on the reference
sequential   one surgery a batch, each on the model that the one before left; the largest batch first

What each costs and which to choose: docs/strategies.md.
"""

from __future__ import annotations

from collections import Counter

STRATEGIES = JOINT, PER_BATCH, SEQUENTIAL = "joint", "per_batch", "sequential"
# What is done about a query that surgery cannot move: see `refmap.trust.correction`.
CORRECTIONS = AUTO, NONE, SYMPHONY = "auto", "none", "symphony"


def in_order(plan: dict) -> list[str]:
    """The query's batches under the names that surgery sees: the one of most cells first, those of the same size by name."""
    cells = Counter()
    for batch in plan["batches"].values():
        cells[batch["name"]] += batch["cells"]
    return sorted(cells, key=lambda name: (-cells[name], name))


def refusals(plan: dict, card: dict) -> dict[str, str]:
    """Why a mapping cannot be done by a strategy, a sentence each; those that can be followed are left out.

    The plan does not know which one is wanted: to want another is no reason to align the query again.
    """
    if len(in_order(plan)) < 2:
        return {}
    kind, of_model = card["class_name"], card["hierarchy"]["below"] if card["hierarchy"] else card
    refused, instead = (PER_BATCH, SEQUENTIAL), f"set strategy to {JOINT}"
    if of_model["takes_new_labels"]:
        why = f"surgery on a {kind} model compares the labels of all batches"
    elif card["takes_gmt"] and (plan["row"]["gmt"] or plan["options"].get("new_programs")):
        why = f"each surgery on a {kind} model would add gene programmes of its own to the latent space"
        instead += ", or add no programmes"
    elif card["fixed_batches"]:
        why = f"surgery on a {kind} model learns no batches"
    elif card["hierarchy"]:
        why = "the hierarchy goes on with one updated model, and this would leave one a batch"
        refused, instead = (PER_BATCH,), f"set strategy to {JOINT} or {SEQUENTIAL}"
    else:
        return {}
    return {
        strategy: f"strategy '{strategy}' is not for query '{plan['row']['query']}', as {why}: {instead}." for strategy in refused
    }


def faults_of(plan: dict, strategy: str) -> list[str]:
    """All that a mapping cannot be done for, before any training: what its plan says, and that of the strategy."""
    refused = plan.get("refused", {}).get(strategy)
    return [*plan["faults"], *([refused] if refused else [])]


def same_as_joint(plan: dict, card: dict, train: dict | None) -> str | None:
    """Why all strategies give the same for this mapping; None where they do not."""
    if not card["batch_key"]:
        return "the model has no batches"
    if len(in_order(plan)) < 2:
        return "the query has one batch"
    return None if train and train["max_epochs"] else "nothing is trained"
