"""Train a sentence encoder on a handful of sentences, as in the paper.

`losses` holds the objective, `ami` its mutual information of `attention`; `config` the recipes,
`trainer` starts a training, `run` is one with its folder and checkpoints. `run_table` lists many
runs, `inputs` loads what they need, `experiment` carries them out, `report` tells the results.
"""
