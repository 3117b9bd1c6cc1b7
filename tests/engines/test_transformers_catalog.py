from __future__ import annotations

import json

import pytest
import tiny_models

from harness.catalog import known_models, load_model
from harness.engines.transformers.configs import read_config
from harness.engines.transformers.weights import build, constant_weights
from harness.errors import NotSupportedError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def _parameters(model) -> int:
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("model_id", known_models())
def test_every_model_of_the_catalog_builds_with_the_parameters_of_its_facts(model_id):
    facts = load_model(model_id)
    model = build(read_config(facts.config_path), "bfloat16", "meta", None, 0, model_id)
    assert _parameters(model) == pytest.approx(facts.params_total, rel=0.005)
    assert {w.dtype for w in model.parameters() if w.numel() > 1e6} == {torch.bfloat16}


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_tiny_models_have_the_parameters_of_their_facts_and_no_constant_weights(tmp_path, name):
    path = tiny_models.write_config(tmp_path, name)
    model = build(read_config(path), "bfloat16", "cpu", None, 0, name)
    assert _parameters(model) == pytest.approx(load_model(str(path)).params_total, rel=0.005)
    assert constant_weights(model) == []
    assert not any(weight.requires_grad for weight in model.parameters())


def test_constant_weights_are_found():
    layer = torch.nn.Linear(128, 128)
    assert constant_weights(layer) == []
    torch.nn.init.zeros_(layer.weight)
    assert constant_weights(layer) == ["weight"]
    torch.nn.init.constant_(layer.weight, float("nan"))
    assert constant_weights(layer) == ["weight"]


def test_the_seed_fixes_the_weights(tmp_path):
    config = read_config(tiny_models.write_config(tmp_path, "llama"))
    one, same, other = (
        dict(build(config, "float32", "cpu", None, seed, "llama").named_parameters())
        for seed in (1, 1, 2)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_an_architecture_that_transformers_does_not_know_is_refused(tmp_path):
    path = tiny_models.write_config(tmp_path, "llama", model_type="hyena_9")
    with pytest.raises(NotSupportedError, match="no architecture called 'hyena_9'") as caught:
        read_config(path)
    assert caught.value.kind == "not_supported"
    assert str(path) in str(caught.value)


def test_a_config_that_transformers_refuses_is_told_in_its_own_words_on_one_line(tmp_path):
    path = tiny_models.write_config(tmp_path, "llama", hidden_size=255)
    with pytest.raises(NotSupportedError, match="transformers refuses this model") as caught:
        read_config(path)
    assert "\n" not in caught.value.what
    assert "hidden" in caught.value.what


def test_a_config_without_text_generation_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(NotSupportedError, match="no text generation for 'vit'"):
        build(read_config(path), "float32", "meta", None, 0, "vit")
