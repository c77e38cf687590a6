"""Time an evaluation against the published way of doing it, on a made-up set of SEED's shape and a random model.

    python benchmarks/evaluate.py --size tiny --device cpu                 # anywhere
    python benchmarks/evaluate.py --size real --device cuda --images 100   # a GPU with 40 GB or more
    python benchmarks/evaluate.py --size small --precision                 # how many answers 16 bits change

The published way: one process, batches of ten in the order of the file, every question's picture read and encoded
again, eager attention, transformers' generate. Ours: `infer`, as the evaluation scripts call it. SEED asks several
questions about a picture, in no order (`--questions`); a trained model answers with a letter and the end of sequence,
hence two new tokens (`--answer-tokens`; a random model would not stop by itself).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from minigpt4.common.dist_utils import prepare_device
from minigpt4.common.json_records import read_json
from minigpt4.common.registry import registry
from minigpt4.common.schema import EvaluationDatasetConfig, ModelConfig
from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.worker import InferenceWorker
from minigpt4.models.attention import PACKED
from minigpt4.models.decoding import decoding_config
from minigpt4.runners.strategy import init_from_meta

PUBLISHED_BATCH = 10
IMAGE_SIZE = 448
"""So that a picture is 256 tokens at every size, and a question costs parts of the model as it does in earnest."""


def llama(width: int, depth: int, heads: int) -> dict[str, int]:
    """Return the sizes of a Llama whose MLP is 2.7 times as wide."""
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "intermediate_size": 43 * width // 16}
    return {**sizes, "num_attention_heads": heads, "num_key_value_heads": heads}


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"vit": {"embed_dim": 128, "depth": 4, "num_heads": 4}, "llama_config": llama(128, 5, 4), "lora_r": 8},
    "small": {"vit": {"embed_dim": 384, "depth": 6, "num_heads": 6}, "llama_config": llama(512, 8, 8), "lora_r": 16},
    "real": {},
}


def make_set(folder: Path, *, images: int, questions: int, text_tokens: int, rng: random.Random) -> None:
    """Write pictures and seed-bench-image.jsonl: `questions` a picture, rows in no order, text lengths spread."""
    rows = []
    for number in range(images):
        noise = Image.frombytes("RGB", (20, 15), rng.randbytes(900))
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        for _ in range(questions):
            length = rng.randint(text_tokens // 2, 3 * text_tokens // 2)
            rows.append({"image": f"{number}.jpg", "text": "".join(rng.choices("abcdefgh ", k=length))})
    rng.shuffle(rows)
    lines = [json.dumps({**row, "question_id": number}) + "\n" for number, row in enumerate(rows)]
    (folder / "seed-bench-image.jsonl").write_text("".join(lines), encoding="utf-8")


@contextlib.contextmanager
def eager(model: Any) -> Iterator[None]:
    """Hold both transformers in eager attention."""
    language, blocks = model.language_model.causal_lm, model.vision_tower.vit.blocks
    fused = [block.attn.fused_attn for block in blocks]
    language.set_attn_implementation("eager")
    for block in blocks:
        block.attn.fused_attn = False
    try:
        yield
    finally:
        language.set_attn_implementation(PACKED)
        for block, was in zip(blocks, fused, strict=True):
            block.attn.fused_attn = was


def published_way(model: Any, benchmark: Benchmark, questions: Sequence[Question], processor: Any) -> list[str]:
    """Return the answers, got in the published way."""
    encoder = model.chat_encoder
    config = decoding_config(encoder.tokenizer, max_new_tokens=benchmark.cfg.max_new_tokens)
    answers = []
    for at in range(0, len(questions), PUBLISHED_BATCH):
        batch = questions[at : at + PUBLISHED_BATCH]
        images = torch.stack([processor(benchmark.open_image(question)) for question in batch])
        with torch.no_grad(), eager(model):
            prompts = [encoder.chat_format.generation_prompt(question.prompt) for question in batch]
            embeds = model.embed_prompts(images, prompts)
            padded = pad_sequence(embeds, batch_first=True, padding_side="left")
            starts = padded.shape[1] - torch.tensor([len(one) for one in embeds], device=padded.device)
            mask = torch.arange(padded.shape[1], device=padded.device) >= starts[:, None]
            language: Any = model.language_model.causal_lm
            ids = language.generate(inputs_embeds=padded, attention_mask=mask.long(), generation_config=config)
        answers += [benchmark.clean(encoder.answer(row)) for row in ids.tolist()]
    return answers


def our_way(model: Any, benchmark: Benchmark, questions: Sequence[Question], processor: Any) -> list[str]:
    """Return the answers, got as the evaluation scripts do, in the order of the questions."""
    device = model.projector.linear.weight.device
    with tempfile.TemporaryDirectory() as folder:
        worker = InferenceWorker(benchmark=benchmark, model=model, image_processor=processor, device=device)
        worker.infer(questions, Path(folder))
        return [row["text"] for row in read_json(Path(folder) / benchmark.result_file)]


def build(size: str, device: torch.device, dtype: torch.dtype) -> Any:
    """Return a model of a size with random weights."""
    made: Any = {"random_weights": True, "vit_ckpt": None, "vit_precision": "fp16", "end_sym": "</s>", **SIZES[size]}
    cfg: Any = OmegaConf.merge(OmegaConf.structured(ModelConfig), made)
    with torch.device("meta"):
        model = registry.get_model_class("minigpt_v2").from_config(cfg, dtype=dtype)
    torch.manual_seed(0)
    init_from_meta(model, device)
    with torch.no_grad():  # a token that is no byte would say nothing
        model.language_model.causal_lm.lm_head.weight[model.chat_encoder.tokenizer.vocab_size :] = 0
    return model.to(device).eval()


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked, of which size of model, where."""

    benchmark: Benchmark
    questions: list[Question]
    processor: Any
    size: str
    device: torch.device

    def run(self, way: Any, model: Any, dtype: torch.dtype, *, num: int | None = None) -> tuple[float, list[str]]:
        """Return the seconds that a way of asking the first `num` questions takes, and the answers."""
        began = time.perf_counter()
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            answers = way(model, self.benchmark, self.questions[:num], self.processor)
        return time.perf_counter() - began, answers


def make_task(args: argparse.Namespace, folder: Path) -> Task:
    """Write the set and return what to do with it."""
    amount = {"images": args.images, "questions": args.questions, "text_tokens": args.text_tokens}
    make_set(folder, **amount, rng=derive_rng("evaluate", args.images))
    entry = {"eval_file_path": str(folder / "seed-bench-image.jsonl"), "img_path": str(folder)}
    entry |= {"batch_size": args.batch_size, "max_new_tokens": args.answer_tokens}
    cfg: Any = OmegaConf.merge(OmegaConf.structured(EvaluationDatasetConfig), entry)
    benchmark = registry.get_benchmark_class("seed")(cfg, name="seed")
    processor = registry.get_processor_class("blip2_image_eval")(IMAGE_SIZE)
    return Task(benchmark, benchmark.questions(), processor, args.size, prepare_device(torch.device(args.device)))


def precision(task: Task, half: torch.dtype) -> dict[str, Any]:
    """Return how many answers 16 bits change."""
    said = [task.run(our_way, build(task.size, task.device, dtype), dtype)[1] for dtype in (torch.float32, half)]
    differing = sum(a != b for a, b in zip(*said, strict=True))
    return {"num_questions": len(said[0]), "dtype": str(half), "num_differing_from_float32": differing}


def speed(task: Task, dtype: torch.dtype, *, repeats: int) -> dict[str, Any]:
    """Return how long both ways took, in seconds, and how many of their answers differ."""
    model = build(task.size, task.device, dtype)
    ways = (published_way, our_way)
    for way in ways:
        task.run(way, model, dtype, num=PUBLISHED_BATCH)  # the first call of anything is slow
    runs = [[task.run(way, model, dtype) for way in ways] for _ in range(repeats)]
    theirs, ours = (min(run[number][0] for run in runs) for number in range(2))
    said = [answers for _, answers in runs[0]]
    return {
        "num_questions": len(said[0]),
        "seconds_published_way": round(theirs, 3),
        "seconds": round(ours, 3),
        "questions_per_s": round(len(said[0]) / ours, 2),
        "times_as_fast": round(theirs / ours, 2),
        "num_differing_answers": sum(a != b for a, b in zip(*said, strict=True)),
        "num_distinct_answers": len(set(said[1])),
    }


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--questions", type=int, default=3, help="a picture")
    parser.add_argument("--text-tokens", type=int, default=70, help="of a question, with its options")
    parser.add_argument("--answer-tokens", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=10, help="ours; the published one is ten")
    parser.add_argument("--repeats", type=int, default=3, help="number of runs; the fastest counts")
    parser.add_argument("--precision", action="store_true", help="count the answers that 16 bits change, untimed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        described = {key: getattr(args, key) for key in ("size", "images", "questions", "answer_tokens", "batch_size")}
        name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
        task = make_task(args, Path(folder))
        half = torch.float16 if task.device.type == "cuda" else torch.bfloat16
        dtype = half if task.device.type == "cuda" else torch.float32
        found = precision(task, half) if args.precision else speed(task, dtype, repeats=args.repeats)
        print(json.dumps({**described, "device": name, **found}))


if __name__ == "__main__":
    main()
