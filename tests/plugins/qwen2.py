"""The language model `qwen2`: Qwen2 and Qwen2.5, read by transformers, with the ChatML marks that they learnt."""

from minigpt4.common.registry import registry
from minigpt4.conversation.chat_format import ChatFormat
from minigpt4.models.language.language_model import LanguageModel

CHATML = ChatFormat(
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    template="<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    end="<|im_end|>",
    between="\n",
    stops=("<|im_end|>",),
)
SIZES = {  # those of Qwen2-0.5B
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}


@registry.register_language_model("qwen2")
class Qwen2(LanguageModel):
    """Qwen2: fewer heads for keys than for queries, biases, no BOS, and a head that may be the embeddings."""

    chat_format = CHATML
    model_type = "qwen2"
    random_sizes = SIZES
