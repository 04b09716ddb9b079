"""Learn, use, train and reproduce miCSE sentence embeddings (Klein & Nabi, ACL 2023).

One idea per module. Start with `models.load_model`, `encoding.encode`,
`training.trainer.train_low_shot` and `evaluation.senteval.evaluate_sts`.
"""

__version__ = "0.1.0"
