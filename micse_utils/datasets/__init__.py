"""Texts, rated pairs and labelled sentences, each with its provenance.

`texts` is read for encoding and training, `sts` and `transfer` for scoring; `tables` reads the
user's own tables, and `formats` each kind of file.
"""
