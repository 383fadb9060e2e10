"""Mapping of query single-cell datasets onto reference models by architecture surgery.

A package a stage, laid out as the data flow. From the bottom to the top, each imports from itself and from those before it alone:
`common`, `models`, `remote`, `families`, `hierarchy`, `sheet`, `query`, `reference`, `mapping`, `transfer`, `identity`, `trust`,
`report`, `joint`.

What a stage is called by stands in the module of its name, such as `query.query`.
"""

__version__ = "0.1.0"
