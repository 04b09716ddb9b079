"""Learn, use, train and reproduce miCSE sentence embeddings (Klein & Nabi, ACL 2023).

One idea per module: `device`, `models`, `encoding`, `corpora`, `packaged`, `plotting`.
"""

__version__ = "0.1.0"
