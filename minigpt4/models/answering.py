"""What a trained MiniGPT-v2 is asked: to write an answer (generate) or to choose one (rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_TOKEN
from minigpt4.models.cached_attention import Segment
from minigpt4.models.decoder import SharedPrefix
from minigpt4.models.decoding import RepetitionPenalty, decoding_config, generate_tokens
from minigpt4.models.kv_cache import send, upload
from minigpt4.models.llama import causal_lm
from minigpt4.models.losses import cross_entropy
from minigpt4.models.merged_lora import merged

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
    encoder = model.chat_encoder
    repetition_penalty = options.pop("repetition_penalty", 1)
    config = decoding_config(encoder.tokenizer, end_ids=encoder.end_ids, **options)
    if not prompts:
        return []
    with answering_mode(model), merged(model):  # merging costs less than LoRA's products in the prefill alone
        asked = [encoder.prompt_ids(prompt) for prompt in prompts]
        embeds = _embed(model, images, prompts, asked, shown)
        prefixes = shared_prefixes(prompts, asked, shown)
        with _seeded(seed, embeds[0].device):
            new_ids = continue_from(model, embeds, config, prefixes=prefixes, repetition_penalty=repetition_penalty)
    return [encoder.answer(ids) for ids in new_ids.tolist()]


@torch.no_grad()
def stream(model: MiniGPTv2, images: Tensor | None, prompt: str, **options: Any) -> Iterator[str]:
    """Yield the answer to one prompt as far as it is written, after every token; `options` of `decoding_config`.

    The model must be in eval mode; `images` as in `generate`.
    """
    assert not model.training, "a model that trains drops out"
    encoder = model.chat_encoder
    config = decoding_config(encoder.tokenizer, end_ids=encoder.end_ids, **options)
    ids: list[int] = []
    for token in generate_tokens(model.decoder, embed_prompts(model, images, [prompt]), config):
        ids.append(int(token))
        yield encoder.answer(ids)


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
    with answering_mode(model), merged(model):
        asked = [model.chat_encoder.prompt_ids(prompt) for prompt in prompts]
        embeds = _embed(model, images, prompts, asked, shown)
        scores = score_choices(model, embeds, choices, prefixes=shared_prefixes(prompts, asked, shown))
    return [sorted(range(len(row)), key=row.__getitem__) for row in scores]


def embed_prompts(
    model: MiniGPTv2, images: Tensor | None, prompts: Sequence[str], shown: Sequence[int] | None = None
) -> list[Tensor]:
    """Return each prompt's input embeddings, (tokens, hidden); `images` and `shown` as in `generate`."""
    return _embed(model, images, prompts, [model.chat_encoder.prompt_ids(prompt) for prompt in prompts], shown)


def _embed(
    model: MiniGPTv2,
    images: Tensor | None,
    prompts: Sequence[str],
    asked: Sequence[Tensor],
    shown: Sequence[int] | None,
) -> list[Tensor]:
    """Return the embeddings of prompts whose ids (tokens,) are `asked`, which nothing waits for."""
    num_placeholders = sum(prompt.count(IMAGE_PLACEHOLDER) for prompt in prompts)
    num_images = 0 if images is None else len(images)
    shown = range(num_images) if shown is None else shown
    if num_placeholders != len(shown):
        raise ValueError(f"the prompts show {num_placeholders} images but {len(shown)} are given")
    if not asked:
        return []
    device = model.llama_proj.weight.device
    images = (torch.empty(0, 3, 1, 1) if images is None else images).to(device)
    image_tokens = model.encode_img(images) if images.ndim == 4 else _checked_tokens(images, model)
    ids = torch.cat(list(asked))
    positions = (ids == IMAGE_TOKEN).nonzero().squeeze(1)  # looked for on the CPU
    packed, positions, chosen = (send(x, device) for x in (ids, positions, torch.tensor(shown, dtype=torch.int64)))
    if list(shown) != list(range(len(image_tokens))):
        image_tokens = image_tokens[chosen]
    return list(model.embed(packed, image_tokens, places=positions).split([len(one) for one in asked]))


def _checked_tokens(image_tokens: Tensor, model: MiniGPTv2) -> Tensor:
    """Return image tokens. Raises: ValueError when they are none, such as what `encode_vision` returns."""
    expected = (model.chat_encoder.num_image_tokens, model.llama_proj.out_features)
    if image_tokens.shape[1:] != expected:
        raise ValueError(
            f"expected images (N, 3, H, W) or their tokens (N, {expected[0]}, {expected[1]}) as `encode_img` returns "
            f"them, got a tensor of shape {tuple(image_tokens.shape)}"
        )
    return image_tokens


def shared_prefixes(
    prompts: Sequence[str], asked: Sequence[Tensor], shown: Sequence[int] | None
) -> list[SharedPrefix] | None:
    """Return what each prompt says and shows up to the end of its last image; None where no image is shown twice.

    `asked` are the prompts' ids (tokens,) int64.
    """
    if shown is None or len(set(shown)) == len(shown):
        return None
    prefixes: list[SharedPrefix] = []
    images = iter(shown)
    for prompt, ids in zip(prompts, asked, strict=True):
        positions = (ids == IMAGE_TOKEN).nonzero()
        length = int(positions[-1]) + 1 if len(positions) else 0
        pictures = tuple(next(images) for _ in range(prompt.count(IMAGE_PLACEHOLDER)))
        prefixes.append(((tuple(ids[:length].tolist()), pictures), length))
    return prefixes


def continue_from(
    model: MiniGPTv2,
    embeds: Sequence[Tensor],
    config: GenerationConfig,
    *,
    prefixes: Sequence[SharedPrefix] | None = None,
    repetition_penalty: float = 1,
) -> Tensor:
    """Return the new token ids (B, at most max_new_tokens) int64 that follow prompts of different length."""
    if (config.num_beams or 1) == 1:
        how: Any = {"prefixes": prefixes, "repetition_penalty": repetition_penalty}
        return torch.stack(list(generate_tokens(model.decoder, embeds, config, **how)), dim=1)
    padded = pad_sequence(list(embeds), batch_first=True, padding_side="left")
    lengths = send(torch.tensor([len(one) for one in embeds]), padded.device)
    mask = torch.arange(padded.shape[1], device=lengths.device) >= padded.shape[1] - lengths[:, None]
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
    beams: Any = causal_lm(model.llama_model)
    return beams.generate(
        inputs_embeds=padded, attention_mask=mask.long(), generation_config=config, logits_processor=processors
    )


def score_choices(
    model: MiniGPTv2,
    embeds: Sequence[Tensor],
    choices: Sequence[Sequence[str]],
    *,
    prefixes: Sequence[SharedPrefix] | None = None,
) -> list[list[float]]:
    """Return the score of each prompt's choices; lower is likelier.

    Prompts are computed once, and all choices in one packed forward, each after its prompt's keys and values.
    """
    encoder = model.chat_encoder
    ids = [[encoder.tokenizer.encode(choice + encoder.chat_format.end) for choice in row] for row in choices]
    if not any(ids):
        return [[] for _ in ids]
    flat = [(number, choice) for number, row in enumerate(ids) for choice in row]
    longest = max(len(prompt) + sum(map(len, row)) for prompt, row in zip(embeds, ids, strict=True))
    cache = model.decoder.new_cache(len(embeds), longest)
    hidden = [model.decoder.prefill(cache, embeds, prefixes)]
    segments, before, at = [], [], len(embeds)
    ends = [len(prompt) for prompt in embeds]
    for number, choice in flat:
        # a prompt's last state predicts a choice's first token; each further token is predicted by the one before
        before += [number, *range(at, at + len(choice) - 1)]
        segments.append(Segment(number, len(choice) - 1, start=len(embeds[number]), write_at=ends[number]))
        ends[number] += len(choice) - 1
        at += len(choice) - 1
    tokens = [token for _, choice in flat for token in choice[:-1]]
    device = hidden[0].device
    targets = [token for _, choice in flat for token in choice]
    of_choice = [place for place, (_, choice) in enumerate(flat) for _ in choice]
    divisors = [len(embeds[number]) + len(choice) - 1 for number, choice in flat]
    inputs, rows, labels, where, counts = upload([tokens, before, targets, of_choice, divisors], device)
    if tokens:
        pieces = [model.embed(inputs, hidden[0].new_zeros(0, 1, hidden[0].shape[1]), places=inputs[:0])]
        hidden.append(model.decoder.forward_packed(cache, pieces, [one for one in segments if one.size]))
    losses = cross_entropy(model.decoder.head(torch.cat(hidden)[rows]), labels)
    scores = iter((losses.new_zeros(len(flat)).index_add(0, where, losses) / counts).tolist())
    return [[next(scores) for _ in row] for row in ids]


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
