"""Train a sentence encoder on a handful of sentences, as in the paper: `losses` and `ami` hold the
objective, `trainer` and `run` a training, `run_table`, `experiment` and `report` many of them.
"""
