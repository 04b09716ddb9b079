"""Train a sentence encoder on a handful of sentences, as in the paper.

`losses` holds the objective, `ami` its mutual information of `attention`; `config` the recipes,
`trainer` one run, `grid` many.
"""
