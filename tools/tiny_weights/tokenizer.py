"""The tokenizer of the tiny model: a sentencepiece model trained on what the sample world says."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.prompt_templates import load_templates
from minigpt4.conversation.tokenizer import PAD_PIECE
from minigpt4.sample_world.captions import full_caption, short_caption
from minigpt4.sample_world.scenes import make_scene
from tools.tiny_weights.lessons import repeat_lesson, scene_lesson

VOCAB_SIZE = 1024
PROTOCOL = (
    "\u2581[INST]",
    "\u2581[/INST]",
    "\u2581<Img>",
    "\u2581</Img>",
    "\u2581[vqa]",
    "\u2581[caption]",
    "\u2581[refer]",
    "\u2581[identify]",
    "\u2581[detection]",
    "\u2581[grounding]",
    "A.",
    "B.",
    "C.",
    "D.",
    "{<",
    "><",
    ">}",
    "<delim>",
    "<p>",
    "</p>",
)
"""What stands in every prompt costs one token each here: the tiny model has little time to read."""
_INSTRUCTIONS = (
    "Answer with the option's letter from the given choices directly.",
    "[refer] [identify] [grounding] [detection] {<0><1><2><3>}<delim>{<4><5><6>} <p>red circle</p> {<7><8><9><10>}",
    "The picture shows drawn objects. Look at the picture. yes no true false and a of it is to be that in",
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789 ,.!?'\"-:;()",
)


def train_tokenizer(path: Path, *, num_scenes: int = 1200) -> None:
    """Write a sentencepiece model with the traits of Llama's: BPE, bytes for the rest, blanks kept, digits apart."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_texts(num_scenes),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        user_defined_symbols=[PAD_PIECE, *PROTOCOL],
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def _texts(num_scenes: int) -> Iterator[str]:
    """Yield sentences; those that stand in no lesson come often enough for their words to become pieces."""
    pools = [
        wording for name in ("vqa", "caption", "refer", "identify", "grounding") for wording in load_templates(name)
    ]
    for _ in range(num_scenes // 10):
        yield from _INSTRUCTIONS
        yield from pools
    for number in range(num_scenes):
        rng = derive_rng(0, "tokenizer", number)
        scene = make_scene(0, "train", number)
        yield short_caption(scene)
        yield full_caption(scene)
        for turn in (*scene_lesson(scene, rng, num_turns=9).turns, *repeat_lesson(scene, rng).turns):
            yield from f"[INST] {turn.prompt} [/INST]".split("\n")
            yield turn.answer
