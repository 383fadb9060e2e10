"""A query: read from disk, checked against its model's card, and aligned to the model's genes and columns.

It stands on the families for what each can do, and loads no model.
"""
