"""What the families of scArches (https://docs.scarches.org) share: their three files, safe loading, growth and training.

Importing `files` needs no library of theirs; the other modules belong into the environment `scarches`.
"""
