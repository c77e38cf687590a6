"""What each of two gloo ranks does for test_strategy.py: all cases in one pair of processes, as starting costs most."""

from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch import nn
from torch.distributed.tensor import DTensor

from minigpt4.common.checkpoint import read_checkpoint, write_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.schema import ModelConfig
from minigpt4.common.seeds import seed_torch
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.runners.strategy import wrap
from tests.runners.test_two_processes_equal_one import batches, gradients, load_model
from tests.runners.tiny import tiny_config

CPU = torch.device("cpu")
NUM_STEPS = 20
KINDS = [("image", "text"), ("text", "two images"), ("two images", "image"), ("text", "text"), ("image", "nothing")]
"""What the two ranks see, over and over; `nothing` is left of a batch whose samples are all too long."""


def one_batch(model, kinds):
    kind = kinds[dist.get_rank()]
    batch = batches(model, ["text" if kind == "nothing" else kind])[0]
    if kind == "nothing":
        none = torch.zeros(0, dtype=torch.int64)
        return replace(batch, input_ids=none, labels=none, position_ids=none, lengths=none)
    return batch


def build(path, strategy, *, recompute=False, dtype=torch.float32, overlap=True):
    model_cfg = OmegaConf.merge(Config.load(path).model_cfg, {"use_grad_checkpoint_llm": recompute})
    model = MiniGPTv2.from_config(model_cfg, dtype=dtype)
    return model, wrap(model, strategy=strategy, device=CPU, overlap=overlap)


def random_model(**llama):
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    section = {"random_weights": True, "ckpt": None, "llama_config": {**sizes, "num_attention_heads": 4, **llama}}
    return MiniGPTv2.from_config(OmegaConf.merge(OmegaConf.structured(ModelConfig), tiny_config()["model"], section))


def one_gradient(path, strategy, kinds, *, dtype=torch.float32, **how):
    """Return the gradient of one step, averaged over the ranks; dropout is off, in training mode too."""
    model, parallel = build(path, strategy, dtype=dtype, **how)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = parallel.module(one_batch(model, kinds)).loss
    loss.backward()
    parallel.reduce_gradients()
    return gradients(model)


def train(path, strategy, folder, *, resume=None, recompute=False):
    """Return the losses of this rank's steps, dropout on; every fifth step's gradient is added to the next one's."""
    model, parallel = build(path, strategy, recompute=recompute)
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=1e-3)
    start = 0
    if resume:
        state = read_checkpoint(f"{folder}/{resume}.pth")
        model.load_trainable_state(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    losses = []
    for step in range(start, NUM_STEPS):
        seed_torch("step", 42, dist.get_rank(), step)
        updates = step % 5 != 0
        with torch.enable_grad() if updates else parallel.no_sync():
            loss = parallel.module(one_batch(model, KINDS[step % len(KINDS)])).loss
            loss.backward()
        if updates:
            parallel.reduce_gradients()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step + 1 == NUM_STEPS // 2 and dist.get_rank() == 0 and not resume:
            state = {"model": model.trainable_state(), "optimizer": optimizer.state_dict(), "step": step + 1}
            write_checkpoint(f"{folder}/{strategy}.pth", state)
    dist.barrier()
    return losses


def held_shares(path):
    """Return what share of each sharded tensor this rank holds, and whether all names are those of one process."""
    model, _ = build(path, "fsdp")
    whole = {name: parameter.numel() for name, parameter in load_model(path).named_parameters()}
    held = {name: p.to_local().numel() for name, p in model.named_parameters() if isinstance(p, DTensor)}
    shares = {name: number / whole[name] for name, number in held.items()}
    return {"shares": shares, "same names": [name for name, _ in model.named_parameters()] == list(whole)}


def evaluated(path):
    """Return a batch's loss whole and in shards, and the error of a single rank's call."""
    model, parallel = build(path, "fsdp")
    batch = one_batch(model, ("image", "text"))
    model.eval()
    with torch.no_grad():
        losses = [load_model(path)(batch).loss.item(), parallel.module(batch).loss.item()]
    if dist.get_rank() == 1:
        return {"losses": losses}
    with pytest.raises(RuntimeError) as refused:
        model.generate(torch.zeros(1, 3, 56, 56), ["<s>[INST] <Img><ImageHere></Img> Q [/INST]"])
    return {"losses": losses, "refused": str(refused.value)}


def drawn_from_meta():
    with torch.device("meta"):
        model = random_model()
    seed_torch("init", dist.get_rank())  # where ranks draw differently, rank 0's draw of what stays whole counts
    parallel = wrap(model, strategy="fsdp", device=CPU)
    loss = parallel.module(one_batch(model, ("image", "text"))).loss
    loss.backward()
    assert {parameter.device for parameter in model.parameters()} == {CPU}
    return {"loss": loss.item(), "state": model.trainable_state()}


def one_rank(rank, path, folder):
    torch.set_num_threads(1)
    patience = timedelta(seconds=300)  # a rank that waits for calls the other never makes fails
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    mixed = ("text", "two images")
    results = {
        "held": held_shares(path),
        "evaluated": evaluated(path),
        "drawn": drawn_from_meta(),
        "gradient ddp": one_gradient(path, "ddp", mixed),
        "gradient ddp after backward": one_gradient(path, "ddp", mixed, overlap=False),
        "gradient fsdp": one_gradient(path, "fsdp", mixed),
        "gradient ddp bfloat16": one_gradient(path, "ddp", mixed, dtype=torch.bfloat16),
        "gradient fsdp bfloat16": one_gradient(path, "fsdp", mixed, dtype=torch.bfloat16),
        "gradient recomputed": one_gradient(path, "fsdp", mixed, recompute=True),
        "gradient of one rank": one_gradient(path, "fsdp", ("text", "nothing")),
        "ddp": train(path, "ddp", folder),
        "fsdp": train(path, "fsdp", folder),
        "fsdp recomputing": train(path, "fsdp", folder, recompute=True),
        "ddp after fsdp": train(path, "ddp", folder, resume="fsdp"),
        "fsdp after ddp": train(path, "fsdp", folder, resume="ddp"),
    }
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
