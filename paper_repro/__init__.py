"""Datasets, networks, figures and the report of the reproduction; the command is `paper-repro` (`paper_repro.cli`)."""
