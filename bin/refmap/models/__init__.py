"""A saved model's files, read inertly, and the card of what they say; with the lock by which such a file is loaded at last.

It stands on `common`.
"""
