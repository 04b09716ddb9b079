"""The miCSE objective (Klein & Nabi, ACL 2023): InfoNCE of two dropout views, less lambda * AMI."""

import contextlib
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from sentence_transformers.util import all_gather_with_grad
from torch import Tensor, nn

from micse_utils.training.ami import attention_mutual_information, attention_rows
from micse_utils.training.attention import attention_modules, recorded_attention, two_views


def info_nce(first: Tensor, second: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Return InfoNCE, in nats: find each sentence's second view among those of the whole batch.

    The mean over i of -log softmax_j(cos(first_i, second_j) / temperature) at j = i (Gao et al.
    2021, equation 4). `first` and `second` are the embeddings of the two views, float, [n, d].
    """
    # One direction only, as in SimCSE: the first view looks for its second one, not the reverse.
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    positives = torch.arange(len(first), device=first.device)
    return F.cross_entropy(similarity / temperature, positives)


class MiCSELoss(nn.Module):
    """InfoNCE of two dropout views minus lambda times their attention mutual information.

    A loss for `SentenceTransformerTrainer`. It makes the two views itself, by passing each
    sentence twice through the network in one batch. It puts a dense layer with tanh, the head, on
    top of the raw embedding (Gao et al. 2021), which the saved model does not carry. The data set
    has one column, the sentences, and no labels. Duplicates within a batch are false negatives: use
    `BatchSamplers.NO_DUPLICATES`. With `ami_weight=0` it is the loss of unsupervised SimCSE.

    Args:
        model: on BERT, RoBERTa, MiniLM or DistilBERT, with the pooling to be trained ([CLS] in the
            paper).
        ami_weight: lambda.
        min_layer, max_layer: the layers whose attention is compared, counted from 0, the last one
            not included; an even number. By default the paper's (7 to 11 of 12) in proportion.
        temperature: of InfoNCE.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        ami_weight: float = 1e-3,
        *,
        min_layer: int | None = None,
        max_layer: int | None = None,
        temperature: float = 0.05,
    ) -> None:
        super().__init__()
        attentions = attention_modules(model.transformers_model)
        self.min_layer, self.max_layer = _layer_range(len(attentions), min_layer, max_layer)
        self.model, self.ami_weight, self.temperature = model, ami_weight, temperature
        if not (ami_weight >= 0 and temperature > 0):
            got = f"{ami_weight} and {temperature}"
            raise ValueError(f"ami_weight must be 0 or more and temperature above 0, got {got}")
        # The head takes what the contrastive task does to a vector, so that [CLS] below it is
        # spared; it is thrown away after training.
        width = model.get_embedding_dimension()
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        # As BERT initialises its layers; PyTorch's default for a linear layer differs.
        nn.init.normal_(self.head[0].weight, std=0.02)
        nn.init.zeros_(self.head[0].bias)
        # In tuples, or their parameters would be counted twice. The trainer wraps `self.model`.
        self._encoder = (model,)
        self._attentions = tuple(attentions[self.min_layer : self.max_layer])
        raw = [module for module in model if not isinstance(module, Normalize)]
        self._after_transformer = tuple(raw[1:]) if len(raw) < len(model) else ()

    def forward(self, sentence_features: Iterable[dict], labels=None) -> dict[str, Tensor]:
        """Return the terms of a batch's loss, which the trainer adds up and logs.

        They are `info_nce` and, unless lambda is 0, `ami_term`, which is -lambda * AMI. Under
        `torch.distributed`, InfoNCE is over the batches of all processes, which must be of one
        size, and AMI is of this process's own. `labels` are not used.
        """
        features, *more = sentence_features
        if more:
            raise ValueError("MiCSELoss takes one column: it makes the second view itself")
        [model] = self._encoder
        # By the modules' own flags: the model's property for it has changed its name.
        modules = model.transformers_model.modules()
        if any(getattr(module, "gradient_checkpointing", False) for module in modules):
            raise ValueError("gradient checkpointing must be off: it makes attention maps twice")
        # Both views in one batch: dropout is drawn for each copy, so the two differ.
        maps: list[Tensor] = []
        recorder = recorded_attention(self._attentions, maps)
        with recorder if self.ami_weight else contextlib.nullcontext():
            output = self.model(two_views(features))
        # The head reads the raw embedding: of a unit vector, its bias would make up the most. So if
        # the model has scaled it, the modules before that run again.
        for module in self._after_transformer:
            output = module(output)
        embeddings = output["sentence_embedding"]
        # In float32: differences of the order of bfloat16's rounding decide both terms.
        with torch.autocast(embeddings.device.type, enabled=False):
            first, second = embeddings.float().chunk(2)
            if dist.is_initialized():
                first, second = all_gather_with_grad(first), all_gather_with_grad(second)
            first, second = self.head(first), self.head(second)
            terms = {"info_nce": info_nce(first, second, temperature=self.temperature)}
            if self.ami_weight:
                # Minus, because the loss falls and AMI is to grow.
                ami = attention_mutual_information(*attention_rows(maps))
                terms["ami_term"] = -self.ami_weight * ami
        return terms

    @torch.no_grad()
    def measure_ami(self, sentences: list[str], *, max_length: int = 32) -> float:
        """Return the AMI of two views of some sentences, in nats, without gradients.

        Dropout and positions come from a seed of its own, so values can be compared between runs.
        """
        [model], maps = self._encoder, []
        options = {"truncation": True, "max_length": max_length, "padding": True}
        features = model.tokenizer(sentences, **options, return_tensors="pt").to(model.device)
        views, was_training = two_views(dict(features)), model.training
        with torch.random.fork_rng(), recorded_attention(self._attentions, maps):
            torch.manual_seed(0)
            model.train()  # without dropout there is one view, not two
            model[0](views)  # in float32, whatever the trainer made of `model`
            model.train(was_training)
            return attention_mutual_information(*attention_rows(maps)).item()


def _layer_range(depth: int, first: int | None, last: int | None) -> tuple[int, int]:
    """Return the layers to compare of so many, by default the paper's in proportion."""
    # 11 of 12, and a third of all layers, an even number: 7 to 11.
    default_last = (11 * depth + 5) // 12
    first = default_last - 2 * max(1, round(depth / 6)) if first is None else first
    last = default_last if last is None else last
    if not 0 <= first < last <= depth or (last - first) % 2:
        raise ValueError(
            f"layers {first} to {last} (not included) must be an even number of this model's "
            f"{depth} layers: AMI deals them into two chunks"
        )
    return first, last
