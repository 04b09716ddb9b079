"""Texts, rated pairs and labelled sentences, each with its provenance.

`texts` and `sentences` are read for encoding and training, `sts` and `transfer` for scoring,
`tables` in blocks for files of any size.
"""
