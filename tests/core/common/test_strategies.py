"""Which strategies a mapping can follow, and in which order it takes its batches."""

from __future__ import annotations

import pytest
from refmap.common.strategies import faults_of, in_order, refusals, same_as_joint
from small_queries import make_card, make_row


def make_plan(cells=None, options=None, **row) -> dict:
    """A plan whose batches have these numbers of cells, by value; the names are those that surgery sees."""
    batches = {value: {"cells": n, "name": f"new {value}"} for value, n in (cells or {"a": 3, "b": 5}).items()}
    return {"row": make_row(**row), "batches": batches, "options": options or {}, "faults": []}


def test_the_largest_batch_comes_first():
    assert in_order(make_plan({"b": 2, "c": 9, "a": 2})) == ["new c", "new a", "new b"]
    one = make_plan()
    for batch in one["batches"].values():
        batch["name"] = "lung.donor_1"
    assert in_order(one) == ["lung.donor_1"]


ALONE = {"below": {"labels": {}, "takes_new_labels": False, "unlabeled_category": None}}


@pytest.mark.parametrize(
    ("card", "plan", "refused", "why"),
    [
        ({}, {}, [], ""),
        ({"class_name": "scPoli", "takes_new_labels": True}, {}, ["per_batch", "sequential"], "compares the labels of all"),
        ({"fixed_batches": True}, {}, ["per_batch", "sequential"], "learns no batches: set strategy to joint."),
        ({"takes_gmt": True}, {}, [], ""),
        ({"takes_gmt": True}, {"options": {"new_programs": 0}}, [], ""),
        ({"takes_gmt": True}, {"options": {"new_programs": 1}}, ["per_batch", "sequential"], "or add no programmes."),
        ({"takes_gmt": True}, {"gmt": "p.gmt"}, ["per_batch", "sequential"], "gene programmes of its own"),
        ({}, {"gmt": "p.gmt"}, [], ""),  # which is warned of as not used
        ({"hierarchy": ALONE, "takes_new_labels": True}, {}, ["per_batch"], "set strategy to joint or sequential."),
        (
            {"hierarchy": {"below": ALONE["below"] | {"takes_new_labels": True}}},
            {},
            ["per_batch", "sequential"],
            "compares the labels of all",
        ),
    ],
)
def test_what_each_strategy_is_refused_for(card, plan, refused, why):
    found = refusals(make_plan(**plan), make_card(**card))
    assert list(found) == refused
    for strategy, sentence in found.items():
        assert sentence.startswith(f"strategy '{strategy}' is not for query 'data/q.h5ad', as ") and why in sentence
        assert sentence.endswith(".")


def test_one_batch_can_be_mapped_by_any_strategy():
    assert refusals(make_plan({"a": 3}), make_card(fixed_batches=True)) == {}


def test_all_faults_are_those_of_the_plan_and_of_the_strategy():
    plan = make_plan() | {"faults": ["has no cells."], "refused": {"per_batch": "No."}}
    assert faults_of(plan, "joint") == faults_of(plan, "sequential") == ["has no cells."]
    assert faults_of(plan, "per_batch") == ["has no cells.", "No."]


@pytest.mark.parametrize(
    ("plan", "card", "train", "why"),
    [
        (make_plan(), make_card(), {"max_epochs": 3}, None),
        (make_plan({}), make_card(batch_key=None), {"max_epochs": 3}, "the model has no batches"),
        (make_plan({"a": 3}), make_card(), {"max_epochs": 3}, "the query has one batch"),
        (make_plan(), make_card(), None, "nothing is trained"),
        (make_plan(), make_card(), {"max_epochs": 0}, "nothing is trained"),
    ],
)
def test_where_all_strategies_give_the_same(plan, card, train, why):
    assert same_as_joint(plan, card, train) == why
