"""Texts, rated pairs and labelled sentences, each with its provenance.

`texts` is read for encoding and training, `sts` and `transfer` for scoring; `tables` reads files of
any size in blocks, each kind by its reader in `formats`.
"""
