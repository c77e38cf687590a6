"""The decoder against transformers' own generate, its slots, and the memory that its joint weights share."""

import copy
import functools

import pytest
import torch
from torch import nn
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from minigpt4.models.attention import PACKED, register_packed_attention
from minigpt4.models.decode_graphs import DecodeGraphs
from minigpt4.models.decoder import Decoder
from minigpt4.models.decoding import generate_tokens
from minigpt4.models.kv_cache import CPU_BUCKET, varlen_prefix_works

SIZES = {
    **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0}
LLAMA3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama with biases": (LlamaForCausalLM, LlamaConfig, {"attention_bias": True, "mlp_bias": True}),
    "llama with heads of another size": (LlamaForCausalLM, LlamaConfig, {"head_dim": 16}),
    "llama with scaled rope": (LlamaForCausalLM, LlamaConfig, {"rope_parameters": LLAMA3}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
}
GREEDY = GenerationConfig(max_new_tokens=12, bos_token_id=1, eos_token_id=2, pad_token_id=0)


class OtherLinear(nn.Linear):
    """A linear layer that the decoder does not know, as one of 8 bits."""


def language_model(name):
    make, config, options = MODELS[name]
    torch.manual_seed(3)
    model = make(config(**SIZES, **options)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3) if parameter.ndim == 1 else parameter.mul_(15)
    return model


def decoder_of(model):
    register_packed_attention()
    model.set_attn_implementation(PACKED)
    return Decoder(model)


def prompts_of(model, *lengths):
    torch.manual_seed(sum(lengths))
    embed = model.get_input_embeddings()
    return [embed(torch.randint(3, 97, (length,)).to(embed.weight.device)) for length in lengths]


def generated(decoder, prompts, config=GREEDY):
    with torch.no_grad():
        return torch.stack(list(generate_tokens(decoder, prompts, config)), dim=1).tolist()


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_transformers(name, is_known):
    model = language_model(name)
    prompts = prompts_of(model, 7, 3, 40)
    theirs = [model.generate(inputs_embeds=one[None], generation_config=GREEDY)[0].tolist() for one in prompts]
    assert len({tuple(row) for row in theirs}) == 3
    if not is_known:
        for layer in model.model.layers:
            layer.self_attn.v_proj.__class__ = layer.mlp.up_proj.__class__ = OtherLinear
    decoder = decoder_of(model)
    ours = [row[: len(other)] for row, other in zip(generated(decoder, prompts), theirs, strict=True)]
    assert decoder.is_fused is is_known
    assert ours == theirs


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_step_gives_the_states_of_a_whole_forward(name):
    model = language_model(name)
    [prompt] = prompts_of(model, 9)
    ids = torch.tensor([5, 11, 96])
    whole = torch.cat([prompt, model.get_input_embeddings()(ids)])
    wanted = model.model(inputs_embeds=whole[None]).last_hidden_state[0, -4:]
    decoder = decoder_of(model)
    cache = decoder.new_cache(1, 12)
    found = [decoder.prefill(cache, [prompt]), *(decoder.decode_step(cache, token[None]).clone() for token in ids)]
    torch.testing.assert_close(torch.cat(found), wanted, rtol=0, atol=1e-5)


def test_joint_weights_are_the_memory_of_the_separate_ones():
    model = language_model("qwen2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decoder = decoder_of(model)
    prompts = prompts_of(model, 5)
    answer = generated(decoder, prompts)

    def assert_shared():
        for layer in model.model.layers:
            q, k, v = (getattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj"))
            assert k.weight.data_ptr() == q.weight.data_ptr() + 4 * q.weight.numel()
            assert v.weight.data_ptr() == k.weight.data_ptr() + 4 * k.weight.numel()
            assert k.bias.data_ptr() == q.bias.data_ptr() + 4 * q.bias.numel()
            assert layer.mlp.up_proj.weight.data_ptr() == layer.mlp.gate_proj.weight.data_ptr() + 4 * 48 * 32
            storage = q.weight.untyped_storage()
            assert storage.data_ptr() == v.weight.untyped_storage().data_ptr()
            assert storage.nbytes() == 4 * sum(one.weight.numel() for one in (q, k, v))

    assert_shared()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.double().float()  # moves every weight to separate memory
    assert generated(decoder, prompts) == answer
    assert_shared()
    addresses = [layer.self_attn.q_proj.weight.data_ptr() for layer in model.model.layers]
    model.load_state_dict({name: value * 0.5 for name, value in before.items()})
    assert generated(decoder, prompts) != answer
    assert addresses == [layer.self_attn.q_proj.weight.data_ptr() for layer in model.model.layers]
    model.load_state_dict(before)
    assert generated(decoder, prompts) == answer


@pytest.mark.parametrize("is_known", [True, False])
def test_a_slot_freed_and_filled_between_steps_answers_as_alone(is_known):
    model = language_model("llama")
    first, second, third = prompts_of(model, 6, 21, 4)
    decoder = decoder_of(model)
    endless = GenerationConfig(max_new_tokens=8, bos_token_id=1, eos_token_id=-1, pad_token_id=0)
    alone = [generated(decoder, [one], endless)[0] for one in (first, second, third)]
    if not is_known:
        for layer in model.model.layers:
            layer.self_attn.q_proj.__class__ = OtherLinear
    cache = decoder.new_cache(3, 32)

    def step(ids):
        return decoder.head(decoder.decode_step(cache, ids)).argmax(-1)

    ids = decoder.head(decoder.prefill(cache, [second, first], slots=[0, 2])).argmax(-1)
    ids = torch.tensor([ids[0], 0, ids[1]])
    said = {0: [int(ids[0])], 2: [int(ids[2])]}
    for number in range(7):
        if number == 3:
            cache.free(0)
            ids[0] = decoder.head(decoder.prefill(cache, [third], slots=[0])).argmax(-1)
            finished, said[0] = said[0], [int(ids[0])]
        ids = step(ids)
        for slot, tokens in said.items():
            tokens.append(int(ids[slot]))
    assert finished == alone[1][:4]
    assert said[0] == alone[2][:5]
    assert said[2] == alone[0]
    assert cache.seq_lens == [4 + 4, 0, 6 + 7] == cache.lengths.tolist()


def test_the_bucket_grows_with_the_longest_sequence_and_the_cache_with_it():
    model = language_model("llama")
    decoder = decoder_of(model)
    [prompt] = prompts_of(model, CPU_BUCKET - 2)
    wanted = generated(decoder, [prompt])[0]
    cache = decoder.new_cache(1, 4)
    assert cache.length == CPU_BUCKET
    ids = decoder.head(decoder.prefill(cache, [prompt])).argmax(-1)
    found, buckets = [int(ids)], []
    for _ in range(4):
        buckets.append(cache.bucket(1))
        ids = decoder.head(decoder.decode_step(cache, ids)).argmax(-1)
        found.append(int(ids))
    assert buckets == [CPU_BUCKET, CPU_BUCKET, 2 * CPU_BUCKET, 2 * CPU_BUCKET]
    assert cache.length == 2 * CPU_BUCKET
    assert found == wanted[:5]


def test_answers_longer_than_a_sliding_window_are_refused():
    make, config, _ = MODELS["mistral"]
    decoder = decoder_of(make(config(**SIZES, sliding_window=16)).eval())
    assert decoder.new_cache(1, 16).num_slots == 1
    with pytest.raises(ValueError, match="have 17 tokens, but attention slides over 16"):
        decoder.new_cache(1, 17)


def test_a_step_that_cannot_be_captured_names_the_option():
    model = language_model("llama")
    register_packed_attention()
    model.set_attn_implementation(PACKED)
    decoder = Decoder(model, cuda_graphs=True)  # on a CPU
    cache = decoder.new_cache(1, 8)
    ids = decoder.prefill(cache, prompts_of(model, 3)).argmax(-1)
    with pytest.raises(RuntimeError, match=r"run\.cuda_graphs: the decode step cannot be captured here"):
        decoder.decode_step(cache, ids)
    model.model.layers[0].mlp.up_proj.__class__ = OtherLinear
    cache = decoder.new_cache(1, 8)
    with pytest.raises(RuntimeError, match=r"run\.cuda_graphs: a decode step is captured over plain weights alone"):
        decoder.decode_step(cache, ids)


def test_graphs_keep_one_cache_and_an_unfinished_answer_gets_a_copy_of_it():
    graphs, where = DecodeGraphs(), {"dtype": torch.float32, "device": torch.device("cpu")}
    config = LlamaConfig(**SIZES)
    first = graphs.cache_for(config, [1], num_slots=3, length=40, **where)
    memory = first.data.data_ptr()
    first.data.fill_(5), first.fill([1], [7])
    second = graphs.cache_for(config, [1], num_slots=2, length=50, **where)
    assert second.data.data_ptr() == memory and second.seq_lens == second.lengths.tolist() == [0, 0, 0]
    assert not second.data.any() and not second.active.any()
    assert first.data.unique().tolist() == [5] and first.seq_lens == first.lengths.tolist() == [0, 7, 0]
    ids = torch.zeros(1, dtype=torch.int64)
    assert graphs.run((1, 32), ids, first, lambda ids: ids + 3).tolist() == [3]  # without a graph
    larger = graphs.cache_for(config, [1], num_slots=2, length=70, **where)
    assert (larger.num_slots, larger.length) == (3, 3 * CPU_BUCKET)
    assert second.data.data_ptr() == memory
    assert graphs.cache_for(config, [2], num_slots=1, length=1, **where).data is not larger.data


def test_graphs_copy_nothing_for_an_answer_that_has_ended():
    graphs, where = DecodeGraphs(), {"dtype": torch.float32, "device": torch.device("cpu")}
    memory = set()
    for _ in range(3):
        cache = graphs.cache_for(LlamaConfig(**SIZES), [1], num_slots=3, length=40, **where)
        memory.add(cache.data.data_ptr())
        del cache
    assert len(memory) == 1


def test_an_answer_that_begins_between_the_tokens_of_another_one_changes_neither(monkeypatch):
    monkeypatch.setattr("minigpt4.models.decode_graphs._capture", Recomputed)
    model = language_model("llama")
    prompts = prompts_of(model, 9, 5)
    wanted = [generated(decoder_of(model), [prompt])[0] for prompt in prompts]
    decoder = Decoder(model, cuda_graphs=True)
    with torch.no_grad():
        first = generate_tokens(decoder, prompts[:1], GREEDY)
        found = [int(next(first)) for _ in range(4)]
        assert generated(decoder, prompts[1:]) == wanted[1:]
        found += [int(token) for token in first]
    assert found == wanted[0]


class Recomputed:
    """What a captured step is on a CPU: the step on the memory that its cache had when it was captured."""

    def __init__(self, ids, step):
        cache, bucket = step.args
        self.ids, self.graph = ids.clone(), self
        self.replay_on = functools.partial(step.func, copy.copy(cache), bucket)

    def replay(self):
        self.hidden = self.replay_on(self.ids)


@pytest.mark.parametrize("is_known", [True, False])
def test_no_step_reads_a_number_back_from_the_device(is_known):
    """On meta, where there are no numbers, whatever asks for one fails."""
    model = language_model("qwen2").to("meta")
    if not is_known:
        model.model.layers[0].mlp.up_proj.__class__ = OtherLinear
    decoder = decoder_of(model)
    prompts = [torch.empty(length, 32, device="meta") for length in (9, 12, 5)]
    cache = decoder.new_cache(3, 20)
    hidden = decoder.prefill(cache, prompts, [("a", 4), ("a", 4), ("b", 4)])
    for _ in range(3):
        hidden = decoder.decode_step(cache, decoder.head(hidden).argmax(-1))
    assert hidden.is_meta and cache.seq_lens == [12, 15, 8]
    with pytest.raises((RuntimeError, NotImplementedError)):
        hidden.sum().item()


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_for_prompts_after_a_prefix_is_right(dtype):
    assert varlen_prefix_works(dtype, torch.device("cuda", torch.cuda.current_device()))


@needs_cuda
def test_a_gpu_generates_the_tokens_of_a_cpu():
    model = language_model("qwen2")
    prompts = prompts_of(model, 7, 3, 40, 40)
    prompts[3] = torch.cat([prompts[2][:30], prompts[3][:2]])
    wanted = generated(decoder_of(model), prompts)
    gpu_prompts = [prompt.cuda() for prompt in prompts]
    decoder = decoder_of(model.cuda())
    assert generated(decoder, gpu_prompts) == wanted
    prefixes = [("a", 1), ("b", 1), ("c", 30), ("c", 30)]
    with torch.no_grad():
        shared = list(generate_tokens(decoder, gpu_prompts, GREEDY, prefixes=prefixes))
    assert torch.stack(shared, dim=1).tolist() == wanted


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captured_steps_give_the_tokens_of_steps_that_are_not(dtype):
    model = language_model("llama").to("cuda", dtype)
    register_packed_attention()
    model.set_attn_implementation(PACKED)
    captured, plain = Decoder(model, cuda_graphs=True), Decoder(model)
    for lengths in ((7, 3, 40), (9,), (250, 3), (5, 6, 7, 8), (7, 3, 40)):
        prompts = prompts_of(model, *lengths)
        assert generated(captured, prompts) == generated(plain, prompts)


def test_prompts_without_a_shared_prefix_are_computed_whole():
    model = language_model("llama")
    prompts = prompts_of(model, 7, 9, 8)
    prompts[2] = torch.cat([prompts[1][:5], prompts[2][:3]])
    decoder = decoder_of(model)
    wanted = torch.cat([decoder.prefill(decoder.new_cache(1, 9), [prompt]) for prompt in prompts])
    found = decoder.prefill(decoder.new_cache(3, 9), prompts, [("a", 0), ("b", 5), ("b", 5)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
