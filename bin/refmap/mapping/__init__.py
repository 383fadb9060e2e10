"""A query mapped onto its reference: surgery by a strategy, and the output with its embedding.

It stands on `query`, `reference` and the families, which do the surgery.
"""
