"""Find a model's config.json and turn it into architecture facts."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from harness.catalog.blocks import Block
from harness.catalog.config_file import ConfigFile, read_config
from harness.catalog.facts import AttentionGroup, Family, ModelFacts, VisionFacts
from harness.catalog.language import Language
from harness.catalog.readers import read_language
from harness.catalog.vision import read_vision
from harness.errors import CatalogError

__all__ = ["ModelFacts", "VisionFacts", "known_models", "load_model", "resolve_sibling"]

PACKAGED = Path(__file__).parent / "configs"
SIBLINGS = Path(__file__).parent / "siblings.json"


def load_model(id_or_path: str, search: Sequence[Path] = ()) -> ModelFacts:
    """Return the architecture facts of a model.

    Parameters
    ----------
    id_or_path
        A Hugging Face id (``ORG/NAME``), a ``*.json`` file, or a folder with a ``config.json``.
    search
        Folders with files named ``ORG--NAME.json``; looked at before the packaged ones.

    Raises
    ------
    CatalogError
        If the model is unknown (its text names close matches), or its config cannot be read.
    """
    path = _find(id_or_path, search)
    if path is not None:
        return _read(id_or_path, path)
    if id_or_path.endswith(".json") or Path(id_or_path).is_dir():
        raise CatalogError(
            "there is no model config at this path",
            where=id_or_path,
            fix="name a config.json, a folder that has one, or a model id (ORG/NAME)",
        )
    sibling = resolve_sibling(id_or_path)
    hint = (
        f"; {sibling} has the same architecture and is packaged: that name works as it is"
        if sibling
        else ""
    )
    names = sorted({*known_models(), *(name for folder in search for name in _ids(folder))})
    matches = _close(id_or_path, names)
    folder = search[0] if search else Path("sweeps/models")
    raise CatalogError(
        f"unknown model {id_or_path!r}{hint}",
        where=f"close matches: {', '.join(matches)}" if matches else "no close match",
        fix=f"put its config.json at {folder / _file_name(id_or_path)}",
    )


def known_models() -> list[str]:
    """Return the ids of the packaged models, sorted."""
    return _ids(PACKAGED)


def resolve_sibling(model_id: str) -> str | None:
    """Return the packaged model with the same architecture as `model_id`, or None.

    A packaged id is its own sibling. Renamed and retrained models are listed in ``siblings.json``;
    quantized ones (``-FP8``) have the facts of the model they were made from.
    """
    by_lower = {name.lower(): name for name in known_models()}
    key = model_id.lower()
    if key in by_lower:
        return by_lower[key]
    return _siblings().get(key)


@lru_cache(maxsize=1)
def _siblings() -> dict[str, str]:
    groups: dict[str, list[str]] = json.loads(SIBLINGS.read_text(encoding="utf-8"))
    return {name.lower(): packaged for packaged, names in groups.items() for name in names}


def _ids(folder: Path) -> list[str]:
    return sorted(path.stem.replace("--", "/", 1) for path in folder.glob("*--*.json"))


def _file_name(model_id: str) -> str:
    return model_id.replace("/", "--") + ".json"


def _find(id_or_path: str, search: Sequence[Path]) -> Path | None:
    direct = Path(id_or_path)
    if direct.suffix == ".json" and direct.is_file():
        return direct
    if (direct / "config.json").is_file():
        return direct / "config.json"
    for folder in (*search, PACKAGED):
        path = Path(folder) / _file_name(id_or_path)
        if path.is_file():
            return path
    return None


def _close(model_id: str, names: list[str]) -> list[str]:
    """Return up to 3 known ids that look like `model_id`, with or without the organisation."""
    by_lower: dict[str, str] = {}
    for name in names:
        by_lower.setdefault(name.lower().rpartition("/")[2], name)
        by_lower[name.lower()] = name
    found: list[str] = []
    for text in (model_id.lower(), model_id.lower().rpartition("/")[2]):
        for match in difflib.get_close_matches(text, by_lower, n=3, cutoff=0.6):
            if by_lower[match] not in found:
                found.append(by_lower[match])
    return found[:3]


def _read(model_id: str, path: Path) -> ModelFacts:
    stamp = path.stat()
    return replace(_read_cached(path, stamp.st_mtime_ns, stamp.st_size), model_id=model_id)


@lru_cache(maxsize=256)
def _read_cached(path: Path, _mtime_ns: int, _bytes: int) -> ModelFacts:
    """Read one file; the time and size in the key make a changed file be read again."""
    config = read_config(path)
    names = config.strings("architectures") or []
    architecture = names[0] if names else config.text("model_type")
    text = _text_part(config)
    language = read_language(text, architecture)
    vision, note = read_vision(config, language.hidden_size)
    return _facts(config, text, architecture, language, vision, note)


def _text_part(config: ConfigFile) -> ConfigFile:
    """Return the part that describes the language model, with what the top level says for it."""
    part = config.section("text_config")
    if part is None:
        return config
    top = {
        key: config.data[key]
        for key in ("tie_word_embeddings",)
        if key in config.data and key not in part.data
    }
    return ConfigFile({**part.data, **top}, part.path, part.part)


def _facts(
    config: ConfigFile,
    text: ConfigFile,
    architecture: str,
    language: Language,
    vision: VisionFacts | None,
    note: str,
) -> ModelFacts:
    parts = language.blocks
    table = language.vocab_size * language.hidden_size
    embeddings = table if language.tied else 2 * table
    tower = 0 if vision is None else vision.params
    linear = sum(part.linear for part in parts)
    always = linear + sum(part.kept for part in parts) + embeddings + tower
    experts = sum(part.experts for part in parts)
    state_layers = sum(part.state_values > 0 for part in parts)
    return ModelFacts(
        model_id=str(config.path),
        family=_family(state_layers, language),
        architecture=architecture,
        layers=language.layers,
        attention_layers=sum(bool(part.attention) for part in parts),
        state_layers=state_layers,
        hidden_size=language.hidden_size,
        intermediate_size=language.intermediate_size,
        heads=language.heads,
        kv_heads=language.kv_heads,
        head_dim=language.head_dim,
        vocab_size=language.vocab_size,
        experts=language.experts,
        experts_per_token=language.experts_per_token,
        expert_intermediate_size=language.expert_intermediate_size,
        shared_expert_intermediate_size=language.shared_expert_intermediate_size,
        state_bytes_per_sequence=2.0 * sum(part.state_values for part in parts),
        vision=vision,
        params_total=always + experts,
        params_active=always + sum(part.experts_used for part in parts),
        config_path=config.path,
        max_position=text.count("max_position_embeddings", default=0),
        attention=_grouped(parts),
        params_linear=linear,
        params_experts=experts,
        params_lookup=0 if language.tied else table,
        state_flops_per_token=sum(part.state_flops for part in parts),
        native_precision=_native_precision(config, text),
        notes=(*language.notes, note) if note else language.notes,
    )


def _family(state_layers: int, language: Language) -> Family:
    if state_layers:
        return "ssm"
    return "moe" if language.experts else "dense"


def _grouped(parts: list[Block]) -> tuple[AttentionGroup, ...]:
    """Return attention layers of the same shape as one group each, in order of appearance."""
    number: dict[AttentionGroup, int] = {}
    for part in parts:
        for group in part.attention:
            number[group] = number.get(group, 0) + 1
    return tuple(replace(group, layers=layers) for group, layers in number.items())


def _native_precision(config: ConfigFile, text: ConfigFile) -> str:
    """Return what the published weights are stored in."""
    quantization = config.section("quantization_config") or text.section("quantization_config")
    if quantization is not None:
        method = quantization.text("quant_method")
        if method:
            return method
    named = (
        text.text("torch_dtype")
        or text.text("dtype")
        or config.text("torch_dtype")
        or config.text("dtype")
    )
    short = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
    return short.get(named, named or "bf16")
