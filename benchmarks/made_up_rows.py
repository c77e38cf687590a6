"""Annotation files at the real numbers of rows, with the real layouts and lengths and made-up words."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

COCO, VG, GQA, BOOKS, TEXTCAPS, FLICKR = 82_783, 108_077, 72_140, 166_000, 21_953, 31_783
"""Numbers of images."""
WORDS = [
    "the",
    "a",
    "man",
    "woman",
    "red",
    "dog",
    "on",
    "in",
    "of",
    "standing",
    "table",
    "street",
    "white",
    "sign",
    "what",
]
REFS = {
    "refcoco": ("unc", 50_000, 142_209),
    "refcoco+": ("unc", 49_856, 141_564),
    "refcocog": ("umd", 49_822, 95_010),
}
"""Folders of RefCOCO: who split it, refs, sentences."""
Row = dict[str, Any]


def write_all(root: Path, scale: float) -> None:
    """Write every annotation file and every (empty) image file."""

    def some(count: int) -> int:
        return max(int(count * scale), 40)

    rng = random.Random(0)
    coco = [f"COCO_train2014_{number:012}.jpg" for number in rng.sample(range(581_929), some(COCO))]
    ids = [int(name[15:27]) for name in coco]
    unseen = [f"COCO_val2014_{number:012}.jpg" for number in range(some(40_504))]
    touch(root / "COCO2014/train", coco)
    write(root / "COCO2014/coco_karpathy_train.json", captions(rng, coco, some(414_113), unseen, some(152_634)))
    touch(root / "textcaps/train_images", (f"{number:016x}.jpg" for number in range(some(TEXTCAPS))))
    texts = [{"image_id": f"{n % some(TEXTCAPS):016x}", "caption_str": say(rng, 12)} for n in range(some(109_765))]
    write(root / "textcaps/TextCaps_0.1_train.json", texts, before='{"info": {}, "data": [', after="]}")
    write(root / "vqav2/vqa_train.json", vqa(rng, coco, "train", some(443_757)))
    write(root / "vqav2/vqa_val.json", vqa(rng, unseen, "val", some(214_354)))
    write(root / "okvqa/okvqa_train.json", vqa(rng, coco, "train", some(9_009)))
    write(root / "aokvqa/aokvqa_v1p0_train.json", aokvqa(rng, coco, some(17_056)))
    touch(root / "gqa/images", (f"{number}.jpg" for number in range(some(GQA))))
    write(root / "gqa/train_balanced_questions.json", gqa(rng, some(GQA), some(943_000)))
    write_books(rng, root / "ocrvqa", some(BOOKS))
    for folder, (split, num_refs, num_sentences) in REFS.items():
        write_refs(rng, root / "refcoco" / folder, split, ids, some(num_refs), some(num_sentences))
    write_genome(rng, root / "vg", some(VG))
    write_flickr(rng, root / "filtered_flickr", some(FLICKR))
    chats = {"llava/conversation_58k": (56_681, 8), "llava/detail_23k": (23_240, 2)}
    chats |= {"llava/complex_reasoning_77k": (76_643, 2), "multitask_conversation/multitask_conversation": (20_000, 6)}
    for name, (count, num_parts) in chats.items():
        write(root / f"{name}.json", conversations(rng, ids, some(count), num_parts))
    rows = [unnatural(rng) for _ in range(some(68_000))]
    write(root / "unnatural_instructions/filtered_unnatural_instruction.json", rows)
    write(root / "data_engine/dataengine_minigpt4.json", engine(rng, some(VG), some(270_000)))


def write(path: Path, rows: Iterable[Row], *, before: str = "[", after: str = "]") -> None:
    """Write a JSON file row by row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write(before)
        for number, row in enumerate(rows):
            file.write(", " * (number > 0) + json.dumps(row))
        file.write(after)


def touch(folder: Path, names: Iterable[str]) -> None:
    """Make empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))


def say(rng: random.Random, num_words: int) -> str:
    """Return a text of `num_words` random words."""
    return " ".join(rng.choices(WORDS, k=num_words))


def captions(rng: random.Random, seen: list[str], num_seen: int, unseen: list[str], num_unseen: int) -> Iterator[Row]:
    """Yield captions of training images, then those of the validation split that are left out."""
    for names, split, count in ((seen, "train2014", num_seen), (unseen, "val2014", num_unseen)):
        for n in range(count):
            yield {"caption": say(rng, 10), "image": f"{split}/{names[n % len(names)]}", "image_id": f"coco_{n}"}


def vqa(rng: random.Random, images: list[str], split: str, count: int) -> Iterator[Row]:
    """Yield questions with ten answers each."""
    for n in range(count):
        image = f"{split}2014/{images[n % len(images)]}"
        answers = rng.choices(WORDS, k=10)
        yield {"question_id": n, "question": say(rng, 6), "answer": answers, "image": image, "dataset": "vqa"}


def aokvqa(rng: random.Random, images: list[str], count: int) -> Iterator[Row]:
    """Yield questions as the builder of A-OKVQA reads them."""
    for row in vqa(rng, images, "train", count):
        choices = rng.sample(WORDS, 4)
        yield {**row, "direct_answers": row.pop("answer"), "choices": choices, "correct_choice_idx": 0}


def gqa(rng: random.Random, num_images: int, count: int) -> Iterator[Row]:
    """Yield questions with one answer each."""
    for n in range(count):
        texts = {"question": say(rng, 9), "answer": rng.choice(WORDS), "fullAnswer": say(rng, 7)}
        yield {"image": f"{n % num_images}.jpg", "question_id": str(n), **texts}


def write_books(rng: random.Random, folder: Path, num_books: int) -> None:
    """Write OCR-VQA: an object of books, six questions each, and their covers."""
    touch(folder / "images", (f"{number:010}.jpg" for number in range(num_books)))
    with (folder / "dataset.json").open("w", encoding="utf-8") as file:
        for number in range(num_books):
            asked = {"questions": [say(rng, 8) for _ in range(6)], "answers": [say(rng, 3) for _ in range(6)]}
            book = {"imageURL": f"http://example.org/images/I/{number}.jpg", **asked, "title": say(rng, 8), "split": 1}
            file.write(("{" if number == 0 else ", ") + json.dumps(f"{number:010}") + ": " + json.dumps(book))
        file.write("}")


def write_refs(rng: random.Random, folder: Path, split: str, ids: list[int], num_refs: int, num_sentences: int) -> None:
    """Write refs and the instances that have their boxes, with outlines as long as COCO's."""
    folder.mkdir(parents=True, exist_ok=True)
    num_boxes, refs = num_refs * 4, []
    for number in range(num_refs):
        count = num_sentences * (number + 1) // num_refs - num_sentences * number // num_refs
        texts = [say(rng, 4) for _ in range(max(count, 1))]
        sentences = [{"raw": t, "sent": t, "sent_id": 0, "tokens": t.split()} for t in texts]
        image = ids[number % len(ids)]
        known = {"ref_id": number, "ann_id": number, "category_id": 1, "file_name": f"{image}.jpg", "sent_ids": [0]}
        refs.append({**known, "image_id": image, "split": "train", "sentences": sentences})
    (folder / f"refs({split}).p").write_bytes(pickle.dumps(refs, protocol=2))
    outline = [[round(rng.uniform(0, 600), 2) for _ in range(60)]]
    boxes = (
        {"id": n, "image_id": 1, "category_id": 1, "segmentation": outline, "bbox": [1.5, 2.5, 30.25, 40.0], "area": 9}
        for n in range(num_boxes)
    )
    write(
        folder / "instances.json",
        boxes,
        before='{"images": [], "categories": [{"id": 1}], "annotations": [',
        after="]}",
    )


def write_genome(rng: random.Random, folder: Path, num_images: int) -> None:
    """Write Visual Genome: fifty regions an image."""
    places = [("VG_100K", "VG_100K_2")[n % 2] for n in range(num_images)]
    for place in ("VG_100K", "VG_100K_2"):
        touch(folder / place, (f"{n}.jpg" for n in range(num_images) if places[n] == place))
    images: Iterable[Row] = (
        {"width": 800, "url": f"https://example.org/rak248/{places[n]}/{n}.jpg", "height": 600, "image_id": n}
        | {"coco_id": None, "flickr_id": None}
        for n in range(num_images)
    )
    write(folder / "image_data.json", images)
    phrases = [say(rng, 5) for _ in range(1000)]

    def regions(image: int) -> Iterator[Row]:
        for n in range(50):
            size = {"width": rng.randrange(10, 220), "height": rng.randrange(10, 220)}
            where = {"image_id": image, "phrase": phrases[rng.randrange(1000)], "y": n, "x": 2 * n}
            yield {"region_id": image * 50 + n, **size, **where}

    write(folder / "region_descriptions.json", ({"id": n, "regions": list(regions(n))} for n in range(num_images)))


def write_flickr(rng: random.Random, folder: Path, num_images: int) -> None:
    """Write the three annotation files of grounded Flickr30k."""
    touch(folder / "images", (f"{n}.jpg" for n in range(num_images)))
    box = "<p>a man</p> {<10><20><30><40>} "
    write(
        folder / "groundedcaption.json",
        ({"image_id": n, "grounded_caption": say(rng, 9) + box * 3} for n in range(num_images)),
    )
    both = ({"image_id": n % num_images, "caption": say(rng, 12), "output": box * 3} for n in range(num_images * 5))
    write(folder / "captiontobbox.json", both)
    phrases = ({"image_id": n % num_images, "phrase": say(rng, 3), "bbox": box} for n in range(num_images * 6))
    write(folder / "phrasetobbox.json", phrases)


def conversations(rng: random.Random, ids: list[int], count: int, num_parts: int) -> Iterator[Row]:
    """Yield conversations in LLaVA's form."""
    for n in range(count):
        said = [{"from": ("human", "gpt")[part % 2], "value": say(rng, 40)} for part in range(num_parts)]
        yield {"id": f"{ids[n % len(ids)]:012}", "image": "", "conversations": said}


def unnatural(rng: random.Random) -> Row:
    """Return an instruction with its one instance."""
    instance = {"instruction_with_input": say(rng, 40), "input": say(rng, 10), "constraints": None}
    return {"instruction": say(rng, 30), "instances": [{**instance, "output": say(rng, 30)}]}


def engine(rng: random.Random, num_images: int, count: int) -> Iterator[Row]:
    """Yield items of the engine, each with four options."""
    for n in range(count):
        image = f"vg/{('VG_100K', 'VG_100K_2')[n % num_images % 2]}/{n % num_images}.jpg"
        texts = {"instruction": say(rng, 12), "answer": say(rng, 15), "short_answer": say(rng, 2)}
        options = [say(rng, 2) for _ in range(4)]
        yield {**texts, "options": options, "choice_answer": "B", "image": image, "qtype": n % 9 + 1}
