"""How good embeddings are: the STS and the transfer tasks of SentEval.

`metrics` holds the figures and their confidence intervals, `published` the rows of others.
"""
