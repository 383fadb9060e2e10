"""What a run is asked to do: its parameters, the sheet of its mappings, and the demo that stands in for a sheet.

The first stage: it stands on the families and the hierarchy for what can be asked of each.
"""
