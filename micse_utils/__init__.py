"""Learn, use, train and reproduce miCSE sentence embeddings (Klein & Nabi, ACL 2023).

One idea per module; the README lists them. Start with `models.load_model`, `encoding.encode`,
`training.train_low_shot` and `senteval.evaluate_sts`.
"""

__version__ = "0.1.0"
