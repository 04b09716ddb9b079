"""How good an encoder is while it learns: Spearman on rated pairs, alignment and uniformity."""

import numpy as np
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator

from micse_utils.datasets.sts import Pairs
from micse_utils.encoding import encode
from micse_utils.evaluation.metrics import alignment, uniformity, unit

LONGEST = 256
"""Tokens kept of each sentence, however short the model reads while it trains."""
POSITIVE = 0.8
"""Share of the highest score from which a pair counts as positive: 4 of 5, as in SimCSE."""


class DevelopmentEvaluator(BaseEvaluator):
    """Score rated pairs: an evaluator for `SentenceTransformerTrainer`.

    Returns `dev_spearman` (x 100, of cosine against gold), `dev_alignment` and `dev_uniformity`.
    Every distinct sentence is encoded once, in float32, and compared in float64: the vectors of a
    raw start lie so close together that rounding alone can move the Spearman by points.

    Args:
        pairs: rated pairs.

    Raises:
        ValueError: all have the same gold score.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        self.primary_metric = "dev_spearman"
        self.pairs = pairs
        if np.ptp(pairs.gold) == 0:
            raise ValueError(
                f"{pairs.provenance.name}: all gold scores are {pairs.gold[0]}; a correlation "
                "needs different ones"
            )
        self.sentences = sorted({*pairs.first, *pairs.second})
        row = {sentence: index for index, sentence in enumerate(self.sentences)}
        self.first = np.array([row[sentence] for sentence in pairs.first])
        self.second = np.array([row[sentence] for sentence in pairs.second])

    def __call__(
        self,
        model: SentenceTransformer,
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = -1,
    ) -> dict[str, float]:
        """Encode and score; `output_path`, `epoch` and `steps` are the trainer's, and not used."""
        vectors = unit(self._encode(model))
        first, second, gold = vectors[self.first], vectors[self.second], self.pairs.gold
        positive = gold >= POSITIVE * gold.max()
        return {
            "dev_spearman": 100 * float(spearmanr((first * second).sum(axis=1), gold)[0]),
            "dev_alignment": alignment(first[positive], second[positive]),
            "dev_uniformity": uniformity(vectors),
        }

    def _encode(self, model: SentenceTransformer) -> np.ndarray:
        # The same modules in a frame of their own: the trainer makes that of `model` bfloat16.
        plain = SentenceTransformer(modules=list(model), device=str(model.device))
        longest = min(LONGEST, model.transformers_model.config.max_position_embeddings)
        while_training, plain.max_seq_length = plain.max_seq_length, longest
        was_training = model.training
        try:
            return encode(
                plain, self.sentences, max_length=longest, dtype=torch.float32, progress=False
            )
        finally:
            plain.max_seq_length = while_training
            model.train(was_training)
