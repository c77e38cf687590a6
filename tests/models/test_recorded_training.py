"""Loss and gradients against the recorded training calls, and where we differ from them on purpose."""

import pytest
import torch

from minigpt4.conversation.conversation import Example, Turn
from minigpt4.models.minigpt_v2 import MiniGPTv2
from tests.models.golden_model import AS_RECORDED, examples_of, picture, recorded, scores_of, tiny_config, tiny_model

CALLS = recorded("train_calls.json")


def model_of(call):
    return tiny_model(image_size=call["image_size"], **call["config"])


def loss_of(model, examples):
    return model(model.chat_encoder.collate(examples)).loss


def row_losses(model, examples):
    """Return the summed loss of each example of one packed batch."""
    batch = model.chat_encoder.collate(examples)
    image_tokens = model.encode_images(batch.images).values
    losses = model.target_losses(model.embed(batch.input_ids, image_tokens, positions=batch.image_positions), batch)
    targets = batch.target_positions
    ends = batch.lengths.cumsum(0)
    rows = torch.searchsorted(ends, targets, right=True)
    return torch.zeros(len(ends)).index_add(0, rows, losses)


@pytest.mark.parametrize("name", AS_RECORDED)
def test_loss_and_gradients_are_the_recorded_ones(name):
    """Tolerances: 1e-4 on the loss, 1e-4 of the largest entry on each gradient; we measure 2e-6 and 4e-6."""
    call, arrays = CALLS[name], recorded(CALLS[name]["file"])
    model = model_of(call)
    out = model(model.chat_encoder.collate(examples_of(call["samples"], call["image_size"])))
    out.loss.backward()
    assert out.loss.item() == pytest.approx(call["loss"], abs=1e-4)
    assert out.num_targets == sum(call["n_target_tokens"])
    for parameter_name, parameter in model.trainable():
        if parameter_name in call["trainable_without_grad"]:  # ours are zero, so that momentum and decay go on
            assert parameter.grad.abs().max() == 0
            continue
        wanted = arrays[f"grad:{parameter_name}"]
        assert (parameter.grad - wanted).abs().max() <= 1e-4 * wanted.abs().max(), parameter_name


def test_every_recorded_call_is_matched_or_named_as_an_exception():
    excepted = {
        *("dollar_answer", "dollar_conv", "trunc_ctx12_text", "instr_chat_none", "conv_none", "text_none"),
        *("text_empty_prompt", "two_placeholders_one_image", "image_without_placeholder"),
        # a Turn has both a question and an answer: uneven ones are for the dataset that reads them to refuse
        *("unequal_conv_turns_more_questions", "unequal_conv_turns_more_answers"),
        *("placeholder_first_nochat", "placeholder_last_nochat"),
    }
    assert set(AS_RECORDED) | excepted == set(CALLS)


@pytest.mark.parametrize("name", ["instr_chat_none", "conv_none", "text_none"])
def test_each_sample_has_its_recorded_loss_once_the_padded_length_is_taken_out(name):
    """The recording divides a sample's summed loss by the padded length; the longest sample shows that it is ours."""
    call = CALLS[name]
    with torch.no_grad():
        ours = row_losses(model_of(call), examples_of(call["samples"]))
    wanted = torch.tensor(call["loss"]) * (call["shape"][1] - 1)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-3)


def test_the_pad_piece_in_an_answer_is_learnt():
    """The recording masks one such token of the first answer."""
    call = CALLS["dollar_answer"]
    model = model_of(call)
    out = model(model.chat_encoder.collate(examples_of(call["samples"])))
    assert out.num_targets == sum(call["n_target_tokens"]) + 1 == 15


def test_the_pad_piece_is_attended_to():
    """The recording hides 3 such tokens; without its mask the recorded embeddings give our loss, which is another."""
    call = CALLS["dollar_conv"]
    model, arrays = model_of(call), recorded(call["file"])
    with torch.no_grad():
        ours = loss_of(model, examples_of(call["samples"])).item()
        wanted = model.language_model.model(inputs_embeds=arrays["inputs_embeds"], labels=arrays["targets"]).loss.item()
    assert call["attention_sum"] == [call["shape"][1] - 3]
    assert ours == pytest.approx(wanted, abs=1e-5)
    assert abs(ours - call["loss"]) > 1e-2


def test_the_bos_of_an_empty_prompt_is_attended():
    """The same sample alone is recorded without attention to its BOS; ours equals a plain causal pass."""
    call = CALLS["text_empty_prompt"]
    model = model_of(call)
    batch = model.chat_encoder.collate(examples_of(call["samples"])[:1])
    assert batch.input_ids.tolist() == [1, 273, 2]
    with torch.no_grad():
        wanted = model.language_model.model(input_ids=batch.input_ids[None], labels=batch.labels[None]).loss
        assert model(batch).loss.item() == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["image_without_placeholder", "two_placeholders_one_image"])
def test_prompts_and_images_that_disagree_are_refused(name):
    with pytest.raises(ValueError, match=r"recorded\[0\]: its prompts show \d images but it carries 1"):
        examples_of(CALLS[name]["samples"])


@pytest.mark.parametrize("name", ["placeholder_first_nochat", "placeholder_last_nochat"])
def test_a_placeholder_at_either_end_works(name):
    call = CALLS[name]
    assert torch.isfinite(loss_of(model_of(call), examples_of(call["samples"])))


@pytest.mark.parametrize("name", ["instr_chat", "conv"])
def test_changing_one_example_leaves_the_losses_of_the_others_unchanged(name):
    call = CALLS[name]
    model, examples = model_of(call), examples_of(call["samples"])
    changed = [Example(turns=(Turn("<ImageHere> another question", "other words"),), images=(picture(3),))]
    with torch.no_grad():
        before = row_losses(model, examples)
        after = row_losses(model, changed + examples[1:])
        alone = torch.cat([row_losses(model, [example]) for example in examples])
    assert abs(after[0] - before[0]) > 1
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(before, alone, rtol=0, atol=1e-4)


def test_the_order_of_examples_does_not_matter():
    call = CALLS["instr_chat"]
    model, examples = model_of(call), examples_of(call["samples"])
    with torch.no_grad():
        forward, backward = row_losses(model, examples), row_losses(model, examples[::-1])
    torch.testing.assert_close(forward, backward.flip(0), rtol=0, atol=1e-4)


def test_recomputation_in_the_language_model_changes_no_gradient():
    """Dropout is on: the recomputed pass must draw the same masks."""
    gradients = []
    for recompute in (False, True):
        model = tiny_model(use_grad_checkpoint_llm=recompute).train()
        torch.manual_seed(0)
        loss_of(model, examples_of(CALLS["conv"]["samples"])).backward()
        gradients.append({name: parameter.grad for name, parameter in model.trainable()})
    assert model.language_model.model.is_gradient_checkpointing
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)


def test_dropout_acts_in_training_alone():
    model, examples = model_of(CALLS["conv"]), examples_of(CALLS["conv"]["samples"])
    with torch.no_grad():
        assert loss_of(model.eval(), examples) == loss_of(model, examples)
        assert loss_of(model.train(), examples) != loss_of(model, examples)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_frozen_weights_train_under_autocast(dtype):
    """Against float32, 0.08 on a loss of 9.13: 16 bits carry 3 or 2 digits through the layers."""
    model = MiniGPTv2.from_config(tiny_config(vit_precision="fp16"), dtype=dtype).eval()
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {dtype, torch.float32}
    assert {parameter.dtype for _, parameter in model.trainable()} == {torch.float32}
    with torch.autocast("cpu", dtype=dtype):
        loss = loss_of(model, examples_of(CALLS["instr_chat"]["samples"]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CALLS["instr_chat"]["loss"], abs=0.08)
    assert all(torch.isfinite(parameter.grad).all() for _, parameter in model.trainable())


def test_a_batch_without_tokens_gives_a_zero_loss_and_zero_gradients():
    model = tiny_model()
    out = model(model.chat_encoder.pack([]))
    out.loss.backward()
    assert out.loss == 0 and out.num_targets == 0
    assert all(parameter.grad.abs().max() == 0 for _, parameter in model.trainable())


def test_a_mixed_batch_gives_text_and_image_examples_their_own_losses():
    model = tiny_model()
    text, image = examples_of(CALLS["text_chat"]["samples"]), examples_of(CALLS["instr_chat"]["samples"])
    with torch.no_grad():
        mixed = row_losses(model, [text[0], image[0], text[1], image[1]])
        apart = torch.cat([row_losses(model, text[:2]), row_losses(model, image[:2])])
    torch.testing.assert_close(mixed, apart[[0, 2, 1, 3]], rtol=0, atol=1e-4)


def test_a_trained_vision_encoder_gets_gradients():
    model = tiny_model(freeze_vit=False)
    loss_of(model.train(), examples_of(CALLS["instr_chat"]["samples"])).backward()
    assert model.vision_tower.vit.training
    assert all(parameter.grad is not None for parameter in model.vision_tower.vit.parameters())
    assert model.vision_tower.ln_vision.weight.grad.abs().max() > 0


def test_a_trained_vision_encoder_gets_zero_gradients_from_a_text_batch():
    model = tiny_model(freeze_vit=False)
    loss = loss_of(model, examples_of(CALLS["text_chat"]["samples"]))
    loss.backward()
    assert loss.item() == pytest.approx(CALLS["text_chat"]["loss"], abs=1e-4)
    assert all(parameter.grad.abs().max() == 0 for parameter in model.vision_tower.vit.parameters())


def test_a_model_without_lora_trains_its_projection_alone():
    model = tiny_model(lora_r=0, ckpt=None)
    assert [name for name, _ in model.trainable()] == ["llama_proj.weight", "llama_proj.bias"]
    loss_of(model, examples_of(CALLS["instr_chat"]["samples"])).backward()
    assert model.projector.linear.weight.grad.abs().max() > 0


def test_a_choice_is_scored_as_the_loss_of_its_sequence():
    """By hand: the summed loss of the answer over T - 1, through the training path without template."""
    model = tiny_model(chat_template=False)
    prompt = "<s>[INST] <Img><ImageHere></Img> which one? [/INST]"
    example = Example(turns=(Turn(prompt, "a sleepy sheep"),), images=(picture(1),))
    with torch.no_grad():
        summed = row_losses(model, [example])
        [score] = scores_of(model, model.embed_prompts(picture(1)[None], [prompt]), [["a sleepy sheep"]])
    length = len(model.chat_encoder.encode(example.turns)[0])
    assert score[0] == pytest.approx(summed.item() / (length - 1), abs=1e-6)
