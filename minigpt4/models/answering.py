"""What a trained MiniGPT-v2 is asked: to write an answer (generate) or to choose one (rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList

from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_PLACEHOLDER, IMAGE_TOKEN, Batch
from minigpt4.conversation.tokenizer import Tokenizer
from minigpt4.models import decoding
from minigpt4.models.decoding import Head, RepetitionPenalty, decoding_config
from minigpt4.models.llama import causal_lm

if TYPE_CHECKING:
    from minigpt4.models.minigpt_v2 import MiniGPTv2


def generate(
    model: MiniGPTv2,
    images: Tensor | None,
    prompts: Sequence[str],
    *,
    shown: Sequence[int] | None = None,
    seed: int | None = None,
    **options: Any,
) -> list[str]:
    """Return the answer to each prompt.

    `images` are pictures (N, 3, H, W) or what `encode_img` made of them, (N, tokens, hidden); `shown` says which of
    them each placeholder shows, over all prompts (default: each of them once, in order). Prompts that begin with the
    same image have it read once. `options` are those of `decoding_config`; `seed` makes sampling repeatable and leaves
    torch's generators as they were.

    Raises: ValueError when images and placeholders differ in number.
    """
    tokenizer = model.chat_encoder.tokenizer
    repetition_penalty = options.pop("repetition_penalty", 1)
    config = decoding_config(tokenizer, **options)
    if not prompts:
        return []
    with answering_mode(model):
        embeds = embed_prompts(model, images, prompts, shown)
        heads = prompt_heads(model, prompts, shown)
        with _seeded(seed, embeds[0].device):
            new_ids = continue_from(model, embeds, config, heads=heads, repetition_penalty=repetition_penalty)
    return [clean_answer(ids, tokenizer) for ids in new_ids.tolist()]


@torch.no_grad()
def stream(model: MiniGPTv2, images: Tensor | None, prompt: str, **options: Any) -> Iterator[str]:
    """Yield the answer to one prompt as far as it is written, after every token; `options` of `decoding_config`.

    The model must be in eval mode; `images` as in `generate`.
    """
    assert not model.training, "a model that trains drops out"
    tokenizer = model.chat_encoder.tokenizer
    config = decoding_config(tokenizer, **options)
    ids: list[int] = []
    for token in decoding.write(causal_lm(model.llama_model), embed_prompts(model, images, [prompt]), config):
        ids.append(int(token))
        yield clean_answer(ids, tokenizer)


def rank(
    model: MiniGPTv2,
    images: Tensor | None,
    prompts: Sequence[str],
    choices: Sequence[Sequence[str]],
    *,
    shown: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return for each prompt the indices of its choices, most likely first, ties in the order given.

    A choice's score is the sum of the losses of its tokens, end_sym included, over one less than the tokens of its
    whole sequence. It does not depend on what else is ranked in the same call. `images` and `shown` as in `generate`.

    Raises: ValueError when prompts and choices, or images and placeholders, differ in number.
    """
    if len(prompts) != len(choices):
        raise ValueError(f"{len(prompts)} prompts but {len(choices)} lists of choices")
    with answering_mode(model):
        scores = [
            choice_scores(model, prompt, asked) if len(asked) else []
            for prompt, asked in zip(embed_prompts(model, images, prompts, shown), choices, strict=True)
        ]
    return [sorted(range(len(row)), key=row.__getitem__) for row in scores]


def embed_prompts(
    model: MiniGPTv2, images: Tensor | None, prompts: Sequence[str], shown: Sequence[int] | None = None
) -> list[Tensor]:
    """Return each prompt's input embeddings, (tokens, hidden); `images` and `shown` as in `generate`."""
    counts = [prompt.count(IMAGE_PLACEHOLDER) for prompt in prompts]
    num_images = 0 if images is None else len(images)
    shown = range(num_images) if shown is None else shown
    if sum(counts) != len(shown):
        raise ValueError(f"the prompts show {sum(counts)} images but {len(shown)} are given")
    device = model.llama_proj.weight.device
    images = (torch.empty(0, 3, 1, 1) if images is None else images).to(device)
    seen = model.encode_img(images) if images.ndim == 4 else images
    image_tokens = seen[torch.tensor(shown, dtype=torch.int64, device=device)].split(counts)
    ids = [model.chat_encoder.prompt_ids(prompt).to(device) for prompt in prompts]
    return [model.embed(one, tokens) for one, tokens in zip(ids, image_tokens, strict=True)]


def prompt_heads(model: MiniGPTv2, prompts: Sequence[str], shown: Sequence[int] | None) -> list[Head] | None:
    """Return what each prompt says and shows up to the end of its last image; None where no image is shown twice."""
    if shown is None or len(set(shown)) == len(shown):
        return None
    heads: list[Head] = []
    images = iter(shown)
    for prompt in prompts:
        ids = model.chat_encoder.prompt_ids(prompt).tolist()
        length = max((place + 1 for place, token in enumerate(ids) if token == IMAGE_TOKEN), default=0)
        pictures = tuple(next(images) for _ in range(prompt.count(IMAGE_PLACEHOLDER)))
        heads.append(((tuple(ids[:length]), pictures), length))
    return heads


def continue_from(
    model: MiniGPTv2,
    embeds: Sequence[Tensor],
    config: GenerationConfig,
    *,
    heads: Sequence[Head] | None = None,
    repetition_penalty: float = 1,
) -> Tensor:
    """Return the new token ids (B, at most max_new_tokens) int64 that follow prompts of different length."""
    if (config.num_beams or 1) == 1:
        llama = causal_lm(model.llama_model)
        steps = decoding.write(llama, embeds, config, heads=heads, repetition_penalty=repetition_penalty)
        return torch.stack(list(steps), dim=1)
    lengths = torch.tensor([len(one) for one in embeds], device=embeds[0].device)
    padded = pad_sequence(list(embeds), batch_first=True, padding_side="left")
    mask = torch.arange(padded.shape[1], device=lengths.device) >= padded.shape[1] - lengths[:, None]
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
    beams: Any = causal_lm(model.llama_model)
    return beams.generate(
        inputs_embeds=padded, attention_mask=mask.long(), generation_config=config, logits_processor=processors
    )


def clean_answer(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return the text of generated ids up to the first end of sequence, without a repeated prompt before it."""
    ids = list(ids)
    if tokenizer.eos_id in ids:
        ids = ids[: ids.index(tokenizer.eos_id)]
    return tokenizer.decode(ids).split("</s>")[0].split("[/INST]")[-1].strip()


def choice_scores(model: MiniGPTv2, prompt: Tensor, choices: Sequence[str]) -> list[float]:
    """Return the score of each choice after a prompt's embeddings (tokens, hidden); lower is likelier."""
    encoder, device = model.chat_encoder, prompt.device
    ids = [torch.tensor(encoder.tokenizer.encode(choice + encoder.end_sym), device=device) for choice in choices]
    counts = [len(prompt) + len(one) for one in ids]
    lengths = torch.tensor(counts, device=device)
    masked = torch.full((len(prompt),), IGNORE_INDEX, device=device)
    no_images = prompt.new_zeros(0, 1, prompt.shape[1])
    stream = torch.cat([part for one in ids for part in (prompt, model.embed(one, no_images))])
    batch = Batch(
        images=torch.empty(0, 3, 1, 1),
        input_ids=torch.empty(0, dtype=torch.int64),
        labels=torch.cat([part for one in ids for part in (masked, one)]),
        position_ids=torch.cat([torch.arange(count, device=device) for count in counts]),
        lengths=lengths,
    )
    losses, targets = model.target_losses(stream, batch)
    choice_of_token = torch.arange(len(ids), device=device).repeat_interleave(lengths, output_size=sum(counts))
    sums = losses.new_zeros(len(ids)).index_add(0, choice_of_token[targets], losses)
    return (sums / (lengths - 1)).tolist()


@contextmanager
def answering_mode(model: torch.nn.Module) -> Iterator[None]:
    """Hold the model in eval mode and without gradients, and restore its mode after."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with nullcontext() if seed is None else torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
