"""Folders with small tokenizers of transformers, as a user's folder of another model family would hold them."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from minigpt4.conversation.chat_format import ChatFormat

LINES = (
    *("what is this? a red circle is left of the blue square", "yes no yes no", "system user assistant"),
    *("<Img></Img> [vqa] You are a helpful assistant.\n\n", "two  blanks\nand lines\n"),
)
CHATML = ChatFormat(
    template="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    end="<|im_end|>",
    between="\n",
    stops=("<|im_end|>",),
)
LLAMA_3 = ChatFormat(
    template="<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    bos="<|begin_of_text|>",
    end="<|eot_id|>",
    stops=("<|eot_id|>",),
)


def write_chatml(folder):
    """Write a tokenizer without BOS, whose end-of-sequence token is not the end of a turn; return the folder."""
    return _write(
        folder, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def write_llama_3(folder):
    """Write a tokenizer that adds its BOS by itself, without a padding token; return the folder."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return _write(folder, special, adds_bos=True, bos_token=special[0], eos_token=special[1])


def _write(folder, special, *, adds_bos=False, **named):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES * 9, trainer)
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{special[0]} $A", special_tokens=[(special[0], 0)]
        )
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    return folder
