import pytest

from minigpt4.conversation.prompt_templates import fill, load_templates


def test_the_first_template_of_each_name_is_the_canonical_one():
    assert {name: load_templates(name)[0] for name in ("vqa", "caption", "refer", "identify", "grounding")} == {
        "vqa": "[vqa] {}",
        "caption": "[caption] Briefly describe this image.",
        "refer": "[refer] {}",
        "identify": "[identify] {}",
        "grounding": "[grounding] please describe this image in details",
    }


@pytest.mark.parametrize("name", ["vqa", "caption", "refer", "identify", "grounding"])
def test_every_template_is_unique_and_has_the_task_tag(name):
    templates = load_templates(name)
    assert len(set(templates)) == len(templates)
    assert all(template.startswith(f"[{name}] ") and template == template.strip() for template in templates)


def test_text_is_filled_in_as_it_is():
    assert fill("[vqa] {} now", "{} and {0} or 100%") == "[vqa] {} and {0} or 100% now"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vqaa: ['{}']", "there are no prompt templates 'vqa'; did you mean 'vqaa'"),
        ("- a", "there are no prompt templates 'vqa'"),
        ("vqa: []", "the prompt templates 'vqa' should be a list of one or more texts"),
        ("vqa: [1]", "the prompt templates 'vqa' should be a list of one or more texts"),
        ("vqa: ['a {}', 'b']", "'vqa': the template 'b' should have {} as often as 'a {}'"),
    ],
)
def test_a_pool_that_a_user_broke_is_named(tmp_path, text, message):
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"pools.yaml: {message}"):
        load_templates("vqa", path)
