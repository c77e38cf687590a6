"""What each of two gloo ranks does for test_two_ranks.py: one pair of processes for all cases."""

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from minigpt4.runners.strategy import wrap
from tests.plugins.parts import KINDS, QWEN2, TOWER, build, examples

NUM_STEPS = 3


def batch_of(model, rank):
    """Return the batch of a rank: one about pictures, one of text alone."""
    first, second, third = examples(model)
    return model.chat_encoder.collate([[first, third], [second]][rank])


def train(model, parallel, rank):
    """Return the losses of a few updates, and the gradient of the first."""
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=1e-2)
    losses, gradient = [], {}
    for _ in range(NUM_STEPS):
        loss = parallel.module(batch_of(model, rank)).loss
        loss.backward()
        parallel.reduce_gradients()
        gradient = gradient or {name: parameter.grad.clone() for name, parameter in model.trainable()}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses, gradient


def of_kind(kind, files, rank):
    """Return how a kind trains whole on each rank and in shards, and the share of its weights that a rank holds."""
    found = {}
    for strategy in ("ddp", "fsdp"):
        model = build(kind, files)
        whole = {name: parameter.numel() for name, parameter in model.named_parameters()}
        parallel = wrap(model, strategy=strategy, device=torch.device("cpu"))
        found[strategy] = train(model, parallel, rank)
        held = {name: p.to_local().numel() for name, p in model.named_parameters() if isinstance(p, DTensor)}
        found[f"{strategy} shares"] = {name: number / whole[name] for name, number in held.items()}
    return found


def drawn_late(files):
    """Return the loss of random weights that are drawn in shards."""
    options = {"random_weights": True, "llama_config": QWEN2, "vit_options": TOWER}
    with torch.device("meta"):
        model = build("both", files, **options)
    parallel = wrap(model, strategy="fsdp", device=torch.device("cpu"))
    assert not any(parameter.is_meta for parameter in model.parameters())
    return parallel.module(batch_of(model, 0)).loss.item()


def one_rank(rank, files, folder):
    torch.set_num_threads(1)
    patience = timedelta(seconds=300)
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    results = {kind: of_kind(kind, Path(files), rank) for kind in KINDS}
    results["drawn late"] = drawn_late(Path(files))
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
