"""Training a sentence encoder on a handful of sentences: the paper.

`losses` holds the objective, `ami` its mutual information of `attention`; `config` the recipes,
`trainer` one run, `grid` many.
"""
