"""Write a trained model in the formats of other tools: a merged transformers folder, the projection, a peft adapter.

python -m minigpt4.export --cfg-path eval_configs/minigptv2_eval.yaml --ckpt checkpoint_29.pth --out exported

    exported/llama/                    Llama with LoRA merged into its weights, and its tokenizer
    exported/projection.safetensors    llama_proj.weight and llama_proj.bias
    exported/adapter/                  the LoRA matrices alone, for peft on the original Llama

Both folders are read back by transformers and peft, and their logits compared with the model's own, before all is done.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import prepare_device, use_expandable_segments
from minigpt4.common.downloads import from_hub
from minigpt4.common.logger import setup_logger
from minigpt4.conversation.prompts import generation_prompt
from minigpt4.inference import build_model
from minigpt4.models.answering import answering_mode, embed_prompts
from minigpt4.models.llama import causal_lm

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""How far logits may differ, as a part of the largest one: rounding is all that may change."""
TOKENIZER_FILES = (
    *("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja"),
)
QUESTION = "[vqa] What stands beside the red car? Answer in a few words."


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m minigpt4.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cfg-path", required=True, help="YAML with the model, as eval_configs/minigptv2_eval.yaml")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="of the merged weights")
    parser.add_argument("--device", default="cpu", help="where to merge and compare")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the YAML")
    return parser


def export(model: Any, out: Path, *, llama_folder: str, dtype: str) -> dict[str, float]:
    """Write everything below `out`; return how far the logits of each folder differ, as a part of the largest one.

    LoRA is merged into the model that was given, which is of no further use.
    Raises: ValueError when they differ by more than rounding does.
    """
    out.mkdir(parents=True, exist_ok=True)
    embeds = example_embeds(model)
    logits = logits_of(causal_lm(model.llama_model), embeds)
    projection = {
        name: value.detach().float().cpu().contiguous() for name, value in model.llama_proj.state_dict().items()
    }
    save_file({f"llama_proj.{name}": value for name, value in projection.items()}, out / "projection.safetensors")
    differences: dict[str, float] = {}
    llama = model.llama_model
    if isinstance(llama, PeftModel):
        llama.peft_config["default"].base_model_name_or_path = llama_folder
        llama.save_pretrained(str(out / "adapter"))
        # read back onto the base model alone, without the layers that peft put in
        adapted = PeftModel.from_pretrained(llama.unload(), out / "adapter").eval()
        differences["adapter"] = difference(logits_of(causal_lm(adapted), embeds), logits)
        llama = adapted.merge_and_unload()
    tokenizer = model.chat_encoder.tokenizer
    ends = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    llama.generation_config = GenerationConfig(**ends)
    llama.to(DTYPES[dtype]).save_pretrained(out / "llama")
    copy_tokenizer(llama_folder, out / "llama")
    read: Any = AutoModelForCausalLM.from_pretrained(out / "llama", dtype=DTYPES[dtype])
    differences["llama"] = difference(logits_of(read.to(embeds.device).eval(), embeds), logits)
    for name, differs in differences.items():
        if not differs <= TOLERANCE[dtype]:
            raise ValueError(
                f"{out / name} is not to be used: its logits differ by {differs:.2e} of the largest, where rounding to "
                f"{dtype} explains {TOLERANCE[dtype]:.0e}"
            )
    return differences


def example_embeds(model: Any) -> Tensor:
    """Return the embeddings of a prompt with a picture of noise, (tokens, hidden)."""
    patches = model.visual_encoder.patch_embed
    height, width = patches.img_size
    picture = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    with answering_mode(model):
        return embed_prompts(model, picture, [generation_prompt(QUESTION)])[0]


def logits_of(llama: Any, embeds: Tensor) -> Tensor:
    """Return the logits of every place, (tokens, vocabulary) float32 on the CPU."""
    with torch.no_grad():
        return llama(inputs_embeds=embeds[None].to(llama.dtype), use_cache=False).logits[0].float().cpu()


def difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a part of the largest logit."""
    return float((logits - expected).abs().max() / expected.abs().max())


def copy_tokenizer(llama_model: str, folder: Path) -> None:
    """Copy the tokenizer's files of a folder or of a hub id."""
    source = Path(llama_model)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        def fetch(local_only: bool) -> str:
            return snapshot_download(llama_model, allow_patterns=list(TOKENIZER_FILES), local_files_only=local_only)

        source = Path(from_hub("model.llama_model", llama_model, fetch))
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def main() -> None:
    """Export a model and print what was written."""
    use_expandable_segments()
    parser = make_parser()
    args = parser.parse_args()
    setup_logger()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} holds something already")
    try:
        cfg = Config.load(args.cfg_path, args.options)
        if args.ckpt is not None:
            cfg.model_cfg.ckpt = args.ckpt
        for option, bits in (("low_resource", 8), ("load_in_4bit", 4)):
            if cfg.model_cfg[option]:
                name = f"model.{option}"
                raise ValueError(f"{name}: {bits}-bit weights cannot be merged; --options {name}=False")
        model = build_model(cfg, prepare_device(torch.device(args.device)), DTYPES[args.dtype])
        differences = export(model, args.out, llama_folder=cfg.model_cfg.llama_model, dtype=args.dtype)
    except ValueError as error:
        parser.error(str(error))
    for name, differs in differences.items():
        print(f"{args.out / name}: logits differ by {differs:.1e} of the largest")
    print(f"{args.out / 'projection.safetensors'}: llama_proj.weight, llama_proj.bias")


if __name__ == "__main__":
    main()
