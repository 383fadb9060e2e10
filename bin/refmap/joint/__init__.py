"""The joint atlas: a reference's cells and all queries that were mapped onto it, in one file and on one page.

`columns` puts columns of many parts together, `joining` makes the file, and `page` the page to look around in.
"""
