"""A model of a few numbers, for tests of the runner's parts that take milliseconds."""

import torch
from torch import nn
from torch.nn import functional as F

from minigpt4.conversation.conversation import IGNORE_INDEX, Batch, Losses
from minigpt4.models.base_model import BaseModel
from minigpt4.runners.loader import PackedBatch

VOCABULARY = 8


class SmallModel(BaseModel):
    """Predicts each target from the token before it."""

    freeze_vit = True

    def __init__(self, *, dropout=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))
        self.bias = nn.Parameter(torch.zeros(VOCABULARY))
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch):
        before = batch.input_ids[batch.target_positions - 1]
        logits = self.dropout(self.table[before]) + self.bias
        losses = F.cross_entropy(logits, batch.labels[batch.target_positions], reduction="none")
        return Losses((losses * batch.weights).sum() / batch.divisor, losses.detach(), batch.target_positions)


def packed_text(*texts):
    """Return the packed batch of (micro-batch, token ids): all tokens but the first of each are targets."""
    ids = [torch.tensor(tokens) for _, tokens in texts]
    labels = [torch.cat([torch.tensor([IGNORE_INDEX]), tokens[1:]]) for tokens in ids]
    batch = Batch(
        images=torch.empty(0, 3, 1, 1),
        input_ids=torch.cat(ids),
        labels=torch.cat(labels),
        position_ids=torch.cat([torch.arange(len(tokens)) for tokens in ids]),
        lengths=torch.tensor([len(tokens) for tokens in ids]),
    )
    num_targets = {}
    for number, tokens in texts:
        num_targets[number] = num_targets.get(number, 0) + len(tokens) - 1
    micro_batches = torch.tensor([number for number, tokens in texts for _ in tokens[1:]])
    names = tuple(f"row[{number}]" for number, _ in enumerate(texts))
    return PackedBatch(batch=batch, ids=names, micro_batch_ids=micro_batches, num_targets=num_targets)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.trainable()}
