from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import known_hardware, known_models, load_model, resolve_sibling
from harness.errors import CatalogError

B = 1e9

# Published by the makers: model cards, technical reports, or the count that the hub shows.
TOTALS = {
    "MiniMaxAI/MiniMax-M2.5": 229 * B,
    "Qwen/Qwen3-0.6B": 0.6 * B,
    "Qwen/Qwen3-14B": 14.77 * B,
    "Qwen/Qwen3-1.7B": 1.72 * B,
    "Qwen/Qwen3-235B-A22B": 235.1 * B,
    "Qwen/Qwen3-30B-A3B": 30.53 * B,
    "Qwen/Qwen3-32B": 32.76 * B,
    "Qwen/Qwen3-8B": 8.19 * B,
    "Qwen/Qwen3-Coder-480B-A35B-Instruct": 480.2 * B,
    "Qwen/Qwen3-VL-235B-A22B-Instruct": 235.7 * B,
    "Qwen/Qwen3-VL-2B-Instruct": 2.13 * B,
    "Qwen/Qwen3-VL-30B-A3B-Instruct": 31.07 * B,
    "Qwen/Qwen3-VL-32B-Instruct": 33.36 * B,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44 * B,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77 * B,
    "Qwen/Qwen3.5-122B-A10B": 122 * B,
    "Qwen/Qwen3.5-27B": 27 * B,
    "Qwen/Qwen3.5-35B-A3B": 35 * B,
    "Qwen/Qwen3.5-397B-A17B": 397 * B,
    "deepseek-ai/DeepSeek-R1": 671 * B,
    "deepseek-ai/DeepSeek-V3": 671 * B,
    "google/gemma-3-12b-it": 12.19 * B,
    "meta-llama/Llama-2-7b-hf": 6.74 * B,
    "meta-llama/Llama-4-Maverick-17B-128E-Instruct": 400 * B,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 109 * B,
    "meta-llama/Meta-Llama-3-8B": 8.03 * B,
    "meta-llama/Meta-Llama-3.1-405B": 405.9 * B,
    "meta-llama/Meta-Llama-3.1-70B": 70.55 * B,
    "meta-llama/Meta-Llama-3.1-8B": 8.03 * B,
    "mistralai/Mistral-7B-v0.1": 7.24 * B,
    "mistralai/Mixtral-8x22B-v0.1": 140.6 * B,
    "mistralai/Mixtral-8x7B-v0.1": 46.70 * B,
    "moonshotai/Kimi-K2-Instruct": 1026 * B,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31.6 * B,
    "nvidia/NVIDIA-Nemotron-Nano-9B-v2": 8.89 * B,
    "nvidia/Nemotron-H-56B-Base-8K": 56.1 * B,
    "openai/gpt-oss-120b": 116.83 * B,
    "openai/gpt-oss-20b": 20.91 * B,
    "state-spaces/mamba2-2.7b": 2.70 * B,
}

# Both embeddings counted, as their makers count.
ACTIVE = {
    "Qwen/Qwen3-30B-A3B": 3.35 * B,
    "Qwen/Qwen3-235B-A22B": 22.2 * B,
    "mistralai/Mixtral-8x7B-v0.1": 12.88 * B,
    "mistralai/Mixtral-8x22B-v0.1": 39.1 * B,
    "deepseek-ai/DeepSeek-V3": 37 * B,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 17.2 * B,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 3.6 * B,
}


def every_model() -> list[str]:
    return known_models()


@pytest.mark.parametrize(("model_id", "published"), TOTALS.items())
def test_total_parameters_are_the_published_ones(model_id: str, published: float) -> None:
    assert load_model(model_id).params_total == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(("model_id", "published"), ACTIVE.items())
def test_active_parameters_are_the_published_ones(model_id: str, published: float) -> None:
    assert load_model(model_id).params_active == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("model_id", "published"), [("openai/gpt-oss-20b", 3.61 * B), ("openai/gpt-oss-120b", 5.13 * B)]
)
def test_gpt_oss_counts_the_head_but_not_the_embedding_as_active(
    model_id: str, published: float
) -> None:
    facts = load_model(model_id)
    assert facts.params_active - facts.params_lookup == pytest.approx(published, rel=0.005)


def test_gemma4_language_model_has_the_published_size() -> None:
    facts = load_model("google/gemma-4-26B-A4B")
    assert facts.params_total - facts.params_vision == pytest.approx(25.2 * B, rel=0.01)
    assert facts.params_active - facts.params_vision == pytest.approx(3.8 * B, rel=0.01)


def test_every_shipped_model_but_gemma4_has_a_published_total_above() -> None:
    assert set(known_models()) - set(TOTALS) == {"google/gemma-4-26B-A4B"}


@pytest.mark.parametrize(
    ("model_id", "family"),
    [
        ("meta-llama/Meta-Llama-3.1-8B", "dense"),
        ("Qwen/Qwen3-VL-8B-Instruct", "dense"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "moe"),
        ("deepseek-ai/DeepSeek-V3", "moe"),
        ("state-spaces/mamba2-2.7b", "ssm"),
        ("Qwen/Qwen3.5-27B", "ssm"),
        ("Qwen/Qwen3.5-35B-A3B", "ssm"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "ssm"),
    ],
)
def test_family(model_id: str, family: str) -> None:
    assert load_model(model_id).family == family


def test_layers_of_a_hybrid_are_told_apart() -> None:
    facts = load_model("nvidia/Nemotron-H-56B-Base-8K")
    assert (facts.layers, facts.attention_layers, facts.state_layers) == (118, 10, 54)
    facts = load_model("Qwen/Qwen3.5-35B-A3B")
    assert (facts.layers, facts.attention_layers, facts.state_layers) == (40, 10, 30)


def test_kv_cache_of_grouped_query_attention() -> None:
    facts = load_model("meta-llama/Meta-Llama-3.1-8B")
    assert facts.kv_bytes_per_token() == 2 * 32 * 8 * 128 * 2
    assert facts.kv_bytes_per_token(1.0) == facts.kv_bytes_per_token() / 2
    assert facts.kv_bytes_per_sequence(1000) == 1000 * facts.kv_bytes_per_token()


def test_kv_cache_of_latent_attention_is_the_latent_and_one_rotary_key() -> None:
    facts = load_model("deepseek-ai/DeepSeek-V3")
    assert facts.kv_bytes_per_token() == 61 * (512 + 64) * 2


def test_windows_bound_the_cache() -> None:
    facts = load_model("openai/gpt-oss-20b")
    layer = 2 * 8 * 64 * 2
    assert facts.kv_bytes_per_token() == 24 * layer
    assert facts.kv_bytes_per_sequence(10_000) == 12 * layer * 10_000 + 12 * layer * 128


def test_a_pure_state_space_model_has_a_state_and_no_cache() -> None:
    facts = load_model("state-spaces/mamba2-2.7b")
    per_layer = 80 * 64 * 128 + 3 * (80 * 64 + 2 * 128)
    assert facts.kv_bytes_per_token() == 0
    assert facts.state_bytes_per_sequence == 2 * 64 * per_layer
    assert facts.heads == 0


def test_gated_delta_net_state() -> None:
    facts = load_model("Qwen/Qwen3.5-27B")
    per_layer = 48 * 128 * 128 + 3 * (2 * 16 * 128 + 48 * 128)
    assert facts.state_bytes_per_sequence == 2 * 48 * per_layer


@pytest.mark.parametrize(
    ("model_id", "gib"), [("openai/gpt-oss-120b", 60.8), ("openai/gpt-oss-20b", 12.8)]
)
def test_mxfp4_weights_are_as_large_as_the_published_checkpoint(model_id: str, gib: float) -> None:
    assert load_model(model_id).weight_bytes("mxfp4") / 2**30 == pytest.approx(gib, rel=0.005)


def test_weights_by_precision() -> None:
    facts = load_model("meta-llama/Meta-Llama-3.1-8B")
    assert facts.weight_bytes("bf16") == 2 * facts.params_total
    assert facts.weight_bytes("fp16") == 2 * facts.params_total
    assert facts.weight_bytes("fp32") == 4 * facts.params_total
    embeddings = 2 * 128256 * 4096
    least = 0.5 * (facts.params_total - embeddings) + 2 * embeddings
    assert facts.weight_bytes("nvfp4") > least
    assert facts.weight_bytes("fp8") == pytest.approx(9.08e9, rel=0.01)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(CatalogError, match="fp6"):
        load_model("Qwen/Qwen3-8B").weight_bytes("fp6")


def test_work_per_token() -> None:
    facts = load_model("meta-llama/Meta-Llama-3.1-8B")
    table = 128256 * 4096
    assert facts.flops_per_token() == 2 * (facts.params_total - table)
    attention = 2 * 32 * 32 * (128 + 128) * 1000
    assert facts.flops_per_token(1000) - facts.flops_per_token() == attention


def test_the_vision_tower_does_no_work_for_a_text_token() -> None:
    vision = load_model("Qwen/Qwen3-VL-8B-Instruct")
    text = load_model("Qwen/Qwen3-8B")
    assert vision.params_vision > 0.5 * B
    assert vision.flops_per_token(100) == pytest.approx(text.flops_per_token(100))


@given(model_id=st.sampled_from(every_model()), context=st.integers(0, 200_000))
def test_more_context_never_needs_less(model_id: str, context: int) -> None:
    facts = load_model(model_id)
    assert facts.kv_bytes_per_sequence(context) <= facts.kv_bytes_per_sequence(context + 100)
    assert facts.kv_bytes_per_sequence(context) <= context * facts.kv_bytes_per_token()
    assert 0 < facts.flops_per_token(context) <= facts.flops_per_token(context + 100)


@pytest.mark.parametrize("model_id", every_model())
def test_facts_hold_together(model_id: str) -> None:
    facts = load_model(model_id)
    assert facts.model_id == model_id
    assert 0 < facts.params_active <= facts.params_total
    assert (facts.params_active < facts.params_total) == (facts.experts > 0)
    assert facts.params_linear + facts.params_experts < facts.params_total
    assert facts.attention_layers + facts.state_layers <= facts.layers
    assert facts.attention_layers + facts.state_layers > 0
    assert (facts.state_bytes_per_sequence > 0) == (facts.family == "ssm")
    assert facts.config_path.is_file()
    sizes = [facts.weight_bytes(p) for p in ("fp32", "bf16", "fp8", "nvfp4")]
    assert sizes == sorted(sizes, reverse=True)
    assert facts.weight_bytes("mxfp4") < facts.weight_bytes("bf16")


def test_id_path_and_folder_give_the_same_facts(tmp_path: Path) -> None:
    packaged = load_model("Qwen/Qwen3-8B")
    text = packaged.config_path.read_text()
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "me--mine.json").write_text(text)
    for found in (
        load_model(str(tmp_path)),
        load_model(str(tmp_path / "me--mine.json")),
        load_model("me/mine", search=[tmp_path]),
    ):
        assert found.params_total == packaged.params_total
    assert load_model("me/mine", search=[tmp_path]).model_id == "me/mine"


def test_search_goes_before_the_packaged_config(tmp_path: Path) -> None:
    config = json.loads(load_model("Qwen/Qwen3-8B").config_path.read_text())
    config["num_hidden_layers"] = 3
    (tmp_path / "Qwen--Qwen3-8B.json").write_text(json.dumps(config))
    assert load_model("Qwen/Qwen3-8B", search=[tmp_path]).layers == 3
    assert load_model("Qwen/Qwen3-8B").layers == 36


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    config = json.loads(load_model("Qwen/Qwen3-8B").config_path.read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert load_model(str(path)).layers == 36
    config["num_hidden_layers"] = 4
    path.write_text(json.dumps(config))
    assert load_model(str(path)).layers == 4


def test_unknown_model_names_close_matches_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        load_model("Qwen/Qwen3-9B", search=[tmp_path])
    text = str(caught.value)
    assert "Qwen/Qwen3-8B" in text
    assert str(tmp_path / "Qwen--Qwen3-9B.json") in text


@pytest.mark.parametrize("missing", ["nowhere/config.json", ""])
def test_path_without_a_config_is_said(tmp_path: Path, missing: str) -> None:
    with pytest.raises(CatalogError, match="no model config at this path"):
        load_model(str(tmp_path / missing))


def test_facts_cross_a_process_border() -> None:
    facts = load_model("Qwen/Qwen3-VL-8B-Instruct")
    copy = pickle.loads(pickle.dumps(facts))
    assert copy == facts
    assert hash(copy) == hash(facts)


def test_unknown_sibling_names_its_packaged_kin() -> None:
    with pytest.raises(CatalogError, match=r"meta-llama/Meta-Llama-3\.1-70B"):
        load_model("meta-llama/Llama-3.3-70B-Instruct")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "hidden_size")],
)
def test_broken_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CatalogError, match=message) as caught:
        load_model(str(path))
    assert caught.value.where == str(path)


@pytest.mark.parametrize("model_id", every_model())
def test_missing_key_is_named(tmp_path: Path, model_id: str) -> None:
    config = json.loads(load_model(model_id).config_path.read_text())
    part = config.get("text_config", config)
    key = "hidden_size" if "hidden_size" in part else "d_model"
    del part[key]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(CatalogError, match=key):
        load_model(str(path))


@pytest.mark.parametrize("value", [0, -1, 1.5, "4096", True])
def test_nonsense_value_is_refused(tmp_path: Path, value: object) -> None:
    config = json.loads(load_model("Qwen/Qwen3-8B").config_path.read_text())
    config["hidden_size"] = value
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(CatalogError, match="hidden_size"):
        load_model(str(path))


def test_siblings_point_to_packaged_models() -> None:
    assert resolve_sibling("meta-llama/Llama-3.1-70B-Instruct") == "meta-llama/Meta-Llama-3.1-70B"
    assert resolve_sibling("qwen/qwen3-30b-a3b-INSTRUCT-2507") == "Qwen/Qwen3-30B-A3B"
    assert resolve_sibling("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert resolve_sibling("nobody/nothing") is None


def test_sibling_table_names_each_model_once_and_only_packaged_targets() -> None:
    import harness.catalog.models as models

    table = json.loads(models.SIBLINGS.read_text())
    names = [name.lower() for group in table.values() for name in group]
    assert len(names) == len(set(names))
    assert set(table) <= set(known_models())
    assert not {name.lower() for name in known_models()} & set(names)


def test_copied_configs_are_unchanged() -> None:
    core = pytest.importorskip("aiconfigurator_core")
    theirs = Path(core.__file__).parent / "model_configs"
    copied = 0
    for model_id in known_models():
        ours = load_model(model_id).config_path
        original = theirs / f"{ours.stem}_config.json"
        if original.is_file():
            assert ours.read_bytes() == original.read_bytes(), model_id
            copied += 1
    assert copied == len(known_models()) - 7


def test_table_in_the_docs_is_the_catalog(repository: Path) -> None:
    text = (repository / "docs" / "catalog.md").read_text()
    for model_id in known_models():
        facts = load_model(model_id)
        row = (
            f"| {model_id} | {facts.family} | {facts.params_total / 1e9:.2f} "
            f"| {facts.params_active / 1e9:.2f} | {facts.kv_bytes_per_token() / 1024:.1f} |"
        )
        assert row in text
    assert text.count("\n| ") == len(known_models()) + 1 + 1 + len(known_hardware())


def test_language_models_of_the_published_dataset_have_facts(shared_data: Path) -> None:
    folder = shared_data / "mlenergy_v3" / "models"
    names = {
        path.name.split("__", 2)[0] + "/" + path.name.split("__", 2)[1]
        for path in folder.glob("*.json")
    }
    language = {
        name
        for name in names
        if not name.startswith(("PixArt", "zai-org/CogVideoX", "Efficient-Large", "black-forest"))
        and "diffusion" not in name.lower()
        and "Wan" not in name
        and "Hunyuan" not in name
    }
    assert language
    assert {name for name in language if resolve_sibling(name) is None} == set()
