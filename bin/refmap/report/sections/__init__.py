"""The sections of the report's page, each a function of the outcomes that gives None where it has nothing to show."""
