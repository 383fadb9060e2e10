"""Mapping of query single-cell datasets onto reference models by architecture surgery."""

__version__ = "0.1.0"
