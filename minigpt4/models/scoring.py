"""How likely a language model finds given continuations of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minigpt4.models.decoder import SharedPrefix
from minigpt4.models.kv_cache import Segment, upload
from minigpt4.models.language.language_model import LanguageModel
from minigpt4.models.losses import cross_entropy


def score_choices(
    language_model: LanguageModel,
    embeds: Sequence[Tensor],
    choices: Sequence[Sequence[Sequence[int]]],
    *,
    prefixes: Sequence[SharedPrefix] | None = None,
) -> list[list[float]]:
    """Return the score of the choices, lists of ids, of each prompt (tokens, hidden); lower is likelier.

    A score is the sum of the losses of a choice's tokens over one less than the tokens of prompt and choice. Prompts
    are computed once, and all choices in one packed forward, each after its prompt's keys and values.
    """
    if not any(choices):
        return [[] for _ in choices]
    decoder = language_model.decoder
    flat = [(number, choice) for number, row in enumerate(choices) for choice in row]
    longest = max(len(prompt) + sum(map(len, row)) for prompt, row in zip(embeds, choices, strict=True))
    cache = decoder.new_cache(len(embeds), longest)
    hidden = [decoder.prefill(cache, embeds, prefixes)]
    segments, before, at = [], [], len(embeds)
    ends = [len(prompt) for prompt in embeds]
    for number, choice in flat:
        # a prompt's last state predicts a choice's first token; each further token is predicted by the one before
        before += [number, *range(at, at + len(choice) - 1)]
        segments.append(Segment(number, len(choice) - 1, start=len(embeds[number]), write_at=ends[number]))
        ends[number] += len(choice) - 1
        at += len(choice) - 1
    tokens = [token for _, choice in flat for token in choice[:-1]]
    targets = [token for _, choice in flat for token in choice]
    of_choice = [place for place, (_, choice) in enumerate(flat) for _ in choice]
    divisors = [len(embeds[number]) + len(choice) - 1 for number, choice in flat]
    inputs, rows, labels, where, counts = upload([tokens, before, targets, of_choice, divisors], hidden[0].device)
    if tokens:
        pieces = [language_model.embed(inputs)]
        hidden.append(decoder.forward_packed(cache, pieces, [one for one in segments if one.size]))
    losses = cross_entropy(decoder.head(torch.cat(hidden)[rows]), labels)
    scores = iter((losses.new_zeros(len(flat)).index_add(0, where, losses) / counts).tolist())
    return [[next(scores) for _ in row] for row in choices]
