"""Train a sentence encoder on a handful of sentences, as in the paper.

`losses` holds the objective, `ami` its mutual information of `attention`; `config` the recipes,
`trainer` starts a training, `run` is one with its folder and checkpoints. `plan` is a table of many
runs, `starts` what they begin from, `experiment` carries them out, `report` tells what came of it.
"""
