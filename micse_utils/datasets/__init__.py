"""Texts, rated pairs, labelled sentences and tables, each with its provenance."""
