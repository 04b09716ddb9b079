"""Score embeddings on SentEval's STS and transfer tasks and on section triplets.

`metrics` holds the figures and their confidence intervals, `published` the rows of others.
"""
