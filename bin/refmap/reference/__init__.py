"""A reference: its model inspected, or trained on an atlas, and its own cells found.

It stands on `query`, as an atlas is read, checked and aligned as a query is.
"""
