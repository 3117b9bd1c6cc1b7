"""Choose the reader of a language model by the ``model_type`` of its config."""

from __future__ import annotations

from dataclasses import replace

from harness.catalog.config_file import ConfigFile
from harness.catalog.language import Language, Reader
from harness.catalog.read_attention import (
    read_deepseek,
    read_gemma,
    read_gpt_oss,
    read_llama4,
    read_standard,
)
from harness.catalog.read_recurrent import (
    read_granite_hybrid,
    read_jamba,
    read_mamba,
    read_mamba_ssm,
    read_nemotron_h,
    read_qwen_linear,
)
from harness.errors import CatalogError

#: ``model_type`` that the standard keys describe in full.
STANDARD = frozenset(
    {
        "granite",
        "llama",
        "minimax_m2",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_5_vl_text",
        "qwen2_moe",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_moe",
        "qwen3_vl_moe_text",
        "qwen3_vl_text",
    }
)

#: ``model_type`` of the language model -> its reader. Any other goes by the standard keys.
READERS: dict[str, Reader] = {
    "gpt_oss": read_gpt_oss,
    "deepseek_v2": read_deepseek,
    "deepseek_v3": read_deepseek,
    "deepseek_v32": read_deepseek,
    "kimi_k2": read_deepseek,
    "glm_moe_dsa": read_deepseek,
    "llama4_text": read_llama4,
    "gemma3_text": read_gemma,
    "gemma4_text": read_gemma,
    "qwen3_next": read_qwen_linear,
    "qwen3_5_text": read_qwen_linear,
    "qwen3_5_moe_text": read_qwen_linear,
    "nemotron_h": read_nemotron_h,
    "mamba": read_mamba,
    "mamba2": read_mamba,
    "granitemoehybrid": read_granite_hybrid,
    "jamba": read_jamba,
}


def read_language(config: ConfigFile, architecture: str) -> Language:
    """Read the language model of a config.

    Parameters
    ----------
    config
        The part of the file that describes the language model.
    architecture
        Class name, for errors.

    Raises
    ------
    CatalogError
        If a key is missing, or the architecture is one that the standard keys do not describe.
    """
    model_type = config.text("model_type")
    reader = READERS.get(model_type)
    if reader is None and config.section("ssm_cfg"):
        reader = read_mamba_ssm
    if reader is not None:
        return reader(config)
    odd = [
        key
        for key in config.data
        if key.startswith(("mamba", "ssm", "linear_", "block_configs", "rwkv", "compress_"))
    ]
    if odd:
        raise CatalogError(
            f"no reader for architecture {architecture or model_type!r}: it has {', '.join(odd)}",
            where=str(config.path),
            fix="add a reader to harness/catalog/readers.py",
        )
    read = read_deepseek(config) if config.has("kv_lora_rank") else read_standard(config)
    if model_type in STANDARD:
        return read
    note = f"{architecture or model_type!r} has no reader of its own: read by the standard keys"
    return replace(read, notes=(*read.notes, note))
