"""Models and reference cells by an address: what it leads to, fetched and unpacked; and a model's folder published at one.

It stands on `models`, for what a model's files are called and how an archive is unpacked.
"""
