"""What a run says of its mappings: each in tables and pictures, and all of them on one page.

The last stage: it stands on all that the others leave, and nothing stands on it.
"""
