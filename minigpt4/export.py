"""Write a trained model in the formats of other tools: a merged transformers folder, the projection, a peft adapter.

minigpt4 export --cfg-path eval_configs/minigptv2_eval.yaml --ckpt checkpoint_29.pth --out exported

    exported/llama/                    the language model with LoRA merged into its weights, and its tokenizer
    exported/projection.safetensors    llama_proj.weight and llama_proj.bias
    exported/adapter/                  the LoRA matrices, for peft on the original language model

Any language model of transformers is written in this way, to these folders. The vision tower is not written.

At the end transformers and peft read both folders. Their logits must be those of the model, and AutoTokenizer must give
the ids that the model learnt.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from minigpt4.api import build_model
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import pick_device, use_expandable_segments
from minigpt4.common.downloads import from_hub
from minigpt4.common.logger import setup_logger
from minigpt4.common.paths import wrong_output_folder
from minigpt4.common.user_errors import plain_errors
from minigpt4.conversation.tokenizer import SentencePieceTokenizer, TransformersTokenizer
from minigpt4.conversation.tokenizer_export import (
    CHAT_TEMPLATE_FILES,
    copy_transformers_tokenizer,
    write_transformers_tokenizer,
)
from minigpt4.models.language.language_model import quiet_libraries

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far rounding may change logits, as a share of the largest one."""
QUESTION = "[vqa] What stands beside the red car? Answer in a few words."


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="minigpt4 export",
        description=(__doc__ or "").split("\n")[0],
        epilog="example: minigpt4 export --cfg-path my_eval.yaml --ckpt checkpoint_29.pth --out exported",
    )
    parser.add_argument("--cfg-path", required=True, help="YAML with the model, as eval_configs/minigptv2_eval.yaml")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the merged weights")
    parser.add_argument("--device", default="cpu", help="where to merge and compare")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override the YAML"
    )
    return parser


@quiet_libraries()
def export(model: Any, out: Path, *, llama_folder: str, dtype: str) -> dict[str, float]:
    """Write everything below `out`; return how far the logits of each folder differ, as a share of the largest one.

    LoRA is merged into `model`, which cannot be used afterwards.
    Raises: ValueError when logits differ by more than rounding explains, when AutoTokenizer gives other ids than ours,
    or when transformers cannot write the language model or its tokenizer.
    """
    check_can_export(model)
    encoder = model.chat_encoder
    write_tokenizer(encoder.tokenizer, out / "llama", llama_folder=llama_folder)
    embeds = example_embeds(model)
    logits = logits_of(model.language_model.causal_lm, embeds)
    projection = {
        name: value.detach().float().cpu().contiguous() for name, value in model.projector.linear.state_dict().items()
    }
    save_file({f"llama_proj.{name}": value for name, value in projection.items()}, out / "projection.safetensors")
    differences: dict[str, float] = {}
    llama = model.language_model.model
    if isinstance(llama, PeftModel):
        llama.peft_config["default"].base_model_name_or_path = llama_folder
        llama.save_pretrained(str(out / "adapter"))
        # read back onto the base model, without the layers that peft added
        adapted = PeftModel.from_pretrained(llama.unload(), out / "adapter").eval()
        differences["adapter"] = difference(logits_of(adapted.get_base_model(), embeds), logits)
        llama = adapted.merge_and_unload()
    # AutoTokenizer leaves EOS out of a batch's shorter answers, but would show our pad piece, which is ordinary text
    pad_id = encoder.tokenizer.pad_id if isinstance(encoder.tokenizer, TransformersTokenizer) else encoder.end_ids[0]
    end_ids = list(encoder.end_ids) if len(encoder.end_ids) > 1 else encoder.end_ids[0]
    llama.generation_config = GenerationConfig(
        bos_token_id=encoder.tokenizer.bos_id, eos_token_id=end_ids, pad_token_id=pad_id
    )
    llama.to(DTYPES[dtype]).save_pretrained(out / "llama")
    read: Any = AutoModelForCausalLM.from_pretrained(out / "llama", dtype=DTYPES[dtype])
    differences["llama"] = difference(logits_of(read.to(embeds.device).eval(), embeds), logits)
    for name, differs in differences.items():
        if not differs <= TOLERANCE[dtype]:
            raise ValueError(
                f"do not use {out / name}: its logits differ by {differs:.2e} of the largest logit, and rounding to "
                f"{dtype} explains {TOLERANCE[dtype]:.0e}"
            )
    return differences


def check_can_export(model: Any) -> None:
    """Raise ValueError when transformers cannot write the language model or its tokenizer."""
    language_model, tokenizer = model.language_model.causal_lm, model.chat_encoder.tokenizer
    rest = "its checkpoint (.pth) holds the projection and LoRA"
    if not isinstance(language_model, PreTrainedModel):
        name = type(language_model).__name__
        raise ValueError(f"export writes models of transformers only, not the language model {name}; {rest}")
    if not isinstance(tokenizer, SentencePieceTokenizer | TransformersTokenizer):
        name = type(tokenizer).__name__
        raise ValueError(f"export cannot write the tokenizer {name} for transformers; {rest}")


def write_tokenizer(
    tokenizer: SentencePieceTokenizer | TransformersTokenizer, folder: Path, *, llama_folder: str
) -> None:
    """Write a tokenizer that AutoTokenizer reads; one of sentencepiece is converted, others are copied."""
    if isinstance(tokenizer, TransformersTokenizer):
        copy_transformers_tokenizer(tokenizer, folder)
    else:
        write_transformers_tokenizer(tokenizer, folder, source=chat_template_folder(llama_folder))


def example_embeds(model: Any) -> Tensor:
    """Return the embeddings of a prompt with an image of noise, (tokens, hidden)."""
    size = model.vision_tower.image_size
    picture = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prompt = model.chat_encoder.chat_format.generation_prompt(QUESTION)
        embeds: Tensor = model.embed_prompts(picture, [prompt])[0]
    return embeds


def logits_of(llama: Any, embeds: Tensor) -> Tensor:
    """Return the logits of all positions, (tokens, vocabulary) float32 on the CPU."""
    with torch.no_grad():
        logits: Tensor = llama(inputs_embeds=embeds[None].to(llama.dtype), use_cache=False).logits[0]
    return logits.float().cpu()


def difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest logit."""
    return float((logits - expected).abs().max() / expected.abs().max())


def chat_template_folder(llama_model: str) -> Path:
    """Return the folder with the chat template's files, downloaded from the hub if `llama_model` is a hub id."""
    if Path(llama_model).is_dir():
        return Path(llama_model)
    from huggingface_hub import snapshot_download

    def fetch(local_only: bool) -> str:
        return snapshot_download(llama_model, allow_patterns=list(CHAT_TEMPLATE_FILES), local_files_only=local_only)

    return Path(from_hub("model.llama_model", llama_model, fetch))


def main(words: Sequence[str] | None = None) -> None:
    """Export a model and print the paths."""
    use_expandable_segments()
    args = make_parser().parse_args(words)
    setup_logger()
    with plain_errors("export"):
        if args.out.is_dir() and any(args.out.iterdir()):
            raise ValueError(f"--out {args.out} is not empty")
        if wrong := wrong_output_folder("--out", str(args.out)):
            raise ValueError(wrong)
        cfg = Config.load(args.cfg_path, args.options)
        if args.ckpt is not None:
            cfg.model_cfg.ckpt = args.ckpt
        cfg.run_cfg.device = args.device
        cfg.check_values()
        for option, bits in (("low_resource", 8), ("load_in_4bit", 4)):
            if getattr(cfg.model_cfg, option):
                name = f"model.{option}"
                raise ValueError(f"{name}: {bits}-bit weights cannot be merged; --options {name}=False")
        model = build_model(cfg, pick_device(cfg.run_cfg), DTYPES[args.dtype])
        differences = export(model, args.out, llama_folder=cfg.model_cfg.llama_model, dtype=args.dtype)
    for name, differs in differences.items():
        print(f"{args.out / name}: its logits differ from the model's by at most {differs:.1e} of the largest logit")
    print(f"{args.out / 'projection.safetensors'}: llama_proj.weight, llama_proj.bias")


if __name__ == "__main__":
    main()
