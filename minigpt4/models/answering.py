"""What a trained MiniGPT-v2 is asked: to write an answer (generate) or to choose one (rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_PLACEHOLDER, Batch
from minigpt4.conversation.tokenizer import Tokenizer
from minigpt4.models.llama import causal_lm

if TYPE_CHECKING:
    from minigpt4.models.minigpt_v2 import MiniGPTv2


def generate(
    model: MiniGPTv2,
    images: Tensor | None,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    num_beams: int = 1,
    temperature: float = 1,
    top_p: float = 0.9,
    repetition_penalty: float = 1,
    length_penalty: float = 1,
    min_length: int = 1,
    seed: int | None = None,
) -> list[str]:
    """Return the answer to each prompt; images (N, 3, H, W) in the order of the placeholders over all prompts.

    `min_length` counts the BOS, as published settings do: with 1, the default, an answer may be empty. `seed` makes
    sampling repeatable and leaves torch's generators as they were.

    Raises: ValueError when images and placeholders differ in number.
    """
    tokenizer = model.chat_encoder.tokenizer
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=max(min_length - 1, 0) or None,
        do_sample=do_sample,
        num_beams=num_beams,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        **({"temperature": float(temperature), "top_p": top_p} if do_sample else {}),
        **({"length_penalty": float(length_penalty)} if num_beams > 1 else {}),
    )
    if not prompts:
        return []
    with answering_mode(model):
        embeds = embed_prompts(model, images, prompts)
        with _seeded(seed, embeds[0].device):
            new_ids = continue_from(model, embeds, config, repetition_penalty=repetition_penalty)
    return [clean_answer(ids, tokenizer) for ids in new_ids.tolist()]


def rank(
    model: MiniGPTv2, images: Tensor | None, prompts: Sequence[str], choices: Sequence[Sequence[str]]
) -> list[list[int]]:
    """Return for each prompt the indices of its choices, most likely first, ties in the order given.

    A choice's score is the sum of the losses of its tokens, end_sym included, over one less than the tokens of its
    whole sequence. It does not depend on what else is ranked in the same call.

    Raises: ValueError when prompts and choices, or images and placeholders, differ in number.
    """
    if len(prompts) != len(choices):
        raise ValueError(f"{len(prompts)} prompts but {len(choices)} lists of choices")
    with answering_mode(model):
        scores = [
            choice_scores(model, prompt, asked) if len(asked) else []
            for prompt, asked in zip(embed_prompts(model, images, prompts), choices, strict=True)
        ]
    return [sorted(range(len(row)), key=row.__getitem__) for row in scores]


def embed_prompts(model: MiniGPTv2, images: Tensor | None, prompts: Sequence[str]) -> list[Tensor]:
    """Return each prompt's input embeddings, (tokens, hidden)."""
    shown = [prompt.count(IMAGE_PLACEHOLDER) for prompt in prompts]
    num_images = 0 if images is None else len(images)
    if sum(shown) != num_images:
        raise ValueError(f"the prompts show {sum(shown)} images but {num_images} are given")
    device = model.llama_proj.weight.device
    images = torch.empty(0, 3, 1, 1) if images is None else images
    image_tokens = model.encode_img(images.to(device)).split(shown)
    ids = [model.chat_encoder.prompt_ids(prompt).to(device) for prompt in prompts]
    return [model.embed(one, tokens) for one, tokens in zip(ids, image_tokens, strict=True)]


class RepetitionPenalty(LogitsProcessor):
    """Penalises what an answer already holds, and the BOS.

    `transformers` counts the padding of a prompt given as embeddings against the answer, so that its own penalty would
    spare the first words of the shorter prompts of a batch.
    """

    def __init__(self, penalty: float, *, bos_id: int) -> None:
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty)
        self._bos_id = bos_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (B, vocabulary) of the next token after the new tokens (B, t) so far."""
        bos = input_ids.new_full((len(input_ids), 1), self._bos_id)
        return self._penalise(torch.cat([bos, input_ids], dim=1), scores)


def continue_from(
    model: MiniGPTv2, embeds: Sequence[Tensor], config: GenerationConfig, *, repetition_penalty: float = 1
) -> Tensor:
    """Return the new token ids (B, at most max_new_tokens) int64 that follow prompts of different length."""
    lengths = torch.tensor([len(one) for one in embeds], device=embeds[0].device)
    padded = pad_sequence(list(embeds), batch_first=True, padding_side="left")
    longest = padded.shape[1]
    mask = torch.arange(longest, device=lengths.device) >= longest - lengths[:, None]
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
    llama: Any = causal_lm(model.llama_model)
    return llama.generate(
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
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    devices = [device] if device.type == "cuda" else []
    with nullcontext() if seed is None else torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield
