"""Training a sentence encoder on a handful of sentences: the paper.

`losses` holds the objective and `attention` the maps it reads; `config` the settings, `trainer`
one run, `grid` many.
"""
