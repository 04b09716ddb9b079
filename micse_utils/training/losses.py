"""The miCSE objective: InfoNCE of two dropout views, less lambda times their AMI.

Klein & Nabi, ACL 2023. AMI is the mutual information of their attention, in `ami`.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from micse_utils.checks import shown
from micse_utils.training.ami import attention_mutual_information, of_all_processes, over_processes
from micse_utils.training.attention import (
    attention_modules,
    attention_rows,
    recorded_attention,
    two_views,
)
from micse_utils.training.config import PADDING

CITATION = """@inproceedings{klein-nabi-2023-micse,
    title = "mi{CSE}: Mutual Information Contrastive Learning for Low-shot Sentence Embeddings",
    author = "Klein, Tassilo and Nabi, Moin",
    booktitle = "Proceedings of the 61st Annual Meeting of the Association for Computational
        Linguistics (Volume 1: Long Papers)",
    year = "2023",
    pages = "6159--6177",
    url = "https://aclanthology.org/2023.acl-long.339",
}"""


def info_nce(first: Tensor, second: Tensor, *, temperature: float = 0.05) -> Tensor:
    """Return InfoNCE: find each sentence's second view among those of the whole batch.

    The mean over i of -log softmax_j(cos(first_i, second_j) / temperature) at j = i
    (Gao et al. 2021, equation 4).

    Args:
        first, second: embeddings of the two views, float, [n, d].
        temperature: divides the cosines.

    Returns:
        Scalar tensor >= 0, in nats.

    Raises:
        ValueError: the two views are not of one shape.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise ValueError(
            f"the views' embeddings must be two equal [n, d], not {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    # One direction only, as in SimCSE: the first view looks for its second one, not the reverse.
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    positives = torch.arange(len(first), device=first.device)
    return F.cross_entropy(similarity / temperature, positives)


class MiCSELoss(nn.Module):
    """InfoNCE of two dropout views minus lambda times their attention mutual information.

    A loss for `SentenceTransformerTrainer`. It makes the two views itself, by passing each
    sentence twice through the network in one batch. While training, a dense layer with tanh
    stands on top of the raw embedding (Gao et al. 2021), with weights drawn from N(0, 0.02); it
    belongs to the loss, so the saved model does not carry it.

    Only the layers of the range pay for attention maps; all others keep the fused attention.

    Inputs:
        | Texts                | Labels |
        |----------------------|--------|
        | (sentence) one column | none   |

    Relations:
        With `ami_weight=0` it is the loss of unsupervised SimCSE.

    Recommendations:
        No duplicates within a batch (`BatchSamplers.NO_DUPLICATES`): they are false negatives.

    Args:
        model: a `SentenceTransformer` on BERT, RoBERTa, MiniLM or DistilBERT, with the pooling to
            be trained ([CLS] in the paper).
        ami_weight: lambda.
        min_layer, max_layer: the layers whose attention is compared, counted from 0, the last one
            not included; by default those of the paper (7 to 11 of 12) in proportion.
        temperature: temperature of InfoNCE.
        samples: positions drawn per row of attention.
        padding: `counted`, the authors' rule: padding queries are positions like any other and
            padding keys count as lost, so that AMI also depends on the longest sentence of the
            batch. `ignored`, a variant of this kit: only real queries and keys count. On padded
            batches of Wikipedia sentences and the packaged encoder it is 1.5 times as large
            (1.34 to 1.75), with gradients in a different direction (cosine 0.5 to 0.8); from the
            raw start it trained slightly better (STS-B dev 60.4 against 59.7, five of five seeds,
            `data/recorded`).

    Raises:
        ValueError: an unknown architecture, a layer range the model does not have, an unknown
            `padding`, an invalid weight or temperature.

    Example:
        >>> loss = MiCSELoss(model, ami_weight=1e-3)
        >>> SentenceTransformerTrainer(model, args, train_dataset, loss=loss).train()
    """

    def __init__(
        self,
        model: SentenceTransformer,
        ami_weight: float = 1e-3,
        *,
        min_layer: int | None = None,
        max_layer: int | None = None,
        temperature: float = 0.05,
        samples: int = 150,
        padding: str = "counted",
    ) -> None:
        super().__init__()
        if not (ami_weight >= 0 and temperature > 0 and samples >= 2):
            raise ValueError(
                "ami_weight must be 0 or more, temperature above 0 and samples 2 or more, got "
                f"{ami_weight}, {temperature} and {samples}"
            )
        if padding not in PADDING:
            raise ValueError(f"padding must be one of {', '.join(PADDING)}, got {shown(padding)}")
        attentions = attention_modules(model.transformers_model)
        depth = len(attentions)
        self.min_layer = depth * 7 // 12 if min_layer is None else min_layer
        self.max_layer = round(depth * 11 / 12) if max_layer is None else max_layer
        whole_numbers = isinstance(self.min_layer, int) and isinstance(self.max_layer, int)
        if not whole_numbers or not 0 <= self.min_layer < self.max_layer <= depth:
            raise ValueError(
                f"layers {shown(self.min_layer)} to {shown(self.max_layer)} (not included) are no "
                f"range of this model's {depth} layers"
            )
        self.model = model
        self.ami_weight = ami_weight
        self.temperature = temperature
        self.samples = samples
        self.padding = padding
        # The head takes what the contrastive task does to a vector, so that [CLS] below it is
        # spared; it is thrown away after training.
        width = model.get_embedding_dimension()
        self.head = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        # As BERT initialises its layers; PyTorch's default for a linear layer differs.
        nn.init.normal_(self.head[0].weight, std=0.02)
        nn.init.zeros_(self.head[0].bias)
        modules = list(model)
        normalised = any(isinstance(module, Normalize) for module in modules)
        # Plain values, so that the model's parameters are not counted twice.
        self._encoder = (model,)
        self._attentions = tuple(attentions[self.min_layer : self.max_layer])
        self._after_transformer = tuple(
            module for module in modules[1:] if normalised and not isinstance(module, Normalize)
        )

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels=None
    ) -> dict[str, Tensor]:
        """Compute the loss of a batch; under `torch.distributed`, of the batches of all processes.

        Args:
            sentence_features: one dictionary of `input_ids`, `attention_mask`, … [n, tokens].
            labels: not used.

        Returns:
            The terms of the loss, scalar tensors, which the trainer adds up and logs: `info_nce`
            and, unless lambda is 0, `ami_term`, which is -lambda * AMI.
        """
        sentence_features = list(sentence_features)
        if len(sentence_features) != 1:
            raise ValueError(
                f"MiCSELoss makes the second view itself: give it one column of sentences, "
                f"not {len(sentence_features)}"
            )
        [model] = self._encoder
        # By the modules' own flags: the model's property for it has changed its name.
        modules = model.transformers_model.modules()
        if any(getattr(module, "gradient_checkpointing", False) for module in modules):
            raise ValueError(
                "gradient checkpointing must be off for MiCSELoss: it makes attention maps twice"
            )
        # Both views in one batch: dropout is drawn for each row, so the two copies differ.
        views = two_views(self._padded_alike(sentence_features[0]))
        maps: list[Tensor] = []
        with recorded_attention(self._attentions if self.ami_weight else (), maps):
            output = self.model(views)
        # The head reads the raw embedding: of a unit vector, its bias would make up the most.
        for module in self._after_transformer:
            output = module(output)
        embeddings = output["sentence_embedding"]

        # Differences of the order of bfloat16's rounding decide both terms.
        with torch.autocast(embeddings.device.type, enabled=False):
            first, second = (of_all_processes(view) for view in embeddings.float().chunk(2))
            first, second = self.head(first), self.head(second)
            terms = {"info_nce": info_nce(first, second, temperature=self.temperature)}
            if self.ami_weight:
                # Minus, because the loss falls and AMI is to grow.
                terms["ami_term"] = -self.ami_weight * self._ami(maps, views["attention_mask"])
        return terms

    def _ami(self, maps: list[Tensor], attention_mask: Tensor) -> Tensor:
        first, second, positions = attention_rows(maps, attention_mask, padding=self.padding)
        return attention_mutual_information(
            first, second, positions=positions, samples=self.samples
        )

    def _padded_alike(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pad a batch to the longest sentence of all processes, which AMI depends on."""
        mask = features["attention_mask"]
        longest = torch.tensor(mask.shape[1], device=mask.device)
        missing = int(over_processes(longest, dist.ReduceOp.MAX)) - mask.shape[1]
        if not missing:
            return features
        [model] = self._encoder
        fill = {"input_ids": model.tokenizer.pad_token_id}
        return {
            name: F.pad(value, (0, missing), value=fill.get(name, 0))
            if torch.is_tensor(value) and value.shape == mask.shape
            else value
            for name, value in features.items()
        }

    @torch.no_grad()
    def measure_ami(self, sentences: list[str], *, max_length: int = 32, seed: int = 0) -> float:
        """Return the AMI of two views of some sentences, in nats, without gradients.

        Dropout and positions come from a separate seed. So values can be compared within and
        between trainings, and no other random state changes.
        """
        [model] = self._encoder
        views = model.tokenizer(
            sentences, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )
        views = two_views({name: tensor.to(model.device) for name, tensor in views.items()})
        maps: list[Tensor] = []
        was_training = model.training
        with torch.random.fork_rng(), recorded_attention(self._attentions, maps):
            torch.manual_seed(seed)
            model.train()  # without dropout there is one view, not two
            model[0](views)  # in float32, whatever the trainer made of `model`
            model.train(was_training)
            return self._ami(maps, views["attention_mask"]).item()

    @property
    def citation(self) -> str:
        """Return the BibTeX entry of the paper, for the model card."""
        return CITATION

    def get_config_dict(self) -> dict[str, object]:
        """Return the settings, for the model card."""
        names = ("ami_weight", "min_layer", "max_layer", "temperature", "samples", "padding")
        return {name: getattr(self, name) for name in names}
