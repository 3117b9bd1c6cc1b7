"""Facts of the models and GPU types of a table, from the packaged catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from fitting.facts import DiffusionFacts, Facts, HardwareFacts, ModelFacts
    from harness.catalog import ModelFacts as CatalogModel

PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "int4", "nvfp4", "mxfp4")


def facts_for(frame: pd.DataFrame) -> Facts:
    """Return what the catalog knows of the models and GPU types of a table.

    Names that it does not know are left out: laws then estimate from the columns of the rows.
    """
    from fitting.facts import Facts

    hardware = {name: hardware_facts(name) for name in _names(frame, "hardware")}
    models = {name: model_facts(name) for name in _names(frame, "model_id")}
    diffusion = {name: diffusion_facts(name) for name in _names(frame, "model_id")}
    return Facts(
        {k: v for k, v in hardware.items() if v is not None},
        {k: v for k, v in models.items() if v is not None},
        {k: v for k, v in diffusion.items() if v is not None},
    )


def hardware_facts(name: str) -> HardwareFacts | None:
    """Return the datasheet of a GPU type; None if the catalog has none."""
    from fitting.facts import HardwareFacts
    from harness.catalog import load_hardware
    from harness.errors import CatalogError

    try:
        known = load_hardware(name)
    except CatalogError:
        return None
    return HardwareFacts(
        hardware=name,
        architecture=known.architecture,
        memory_bytes=known.memory_bytes,
        memory_bandwidth_bytes_per_s=known.memory_bandwidth_bytes_per_s,
        peak_flops={precision: known.flops_for(precision) for precision in PRECISIONS},
        power_limit_w=known.power_limit_w,
        idle_power_w=known.idle_power_w,
        loaded_idle_power_w=known.loaded_idle_power_w,
        interconnect_bytes_per_s=known.interconnect_bytes_per_s,
    )


def model_facts(model_id: str) -> ModelFacts | None:
    """Return the architecture of a model, or of a sibling of it; None if neither is packaged."""
    from fitting.facts import ModelFacts
    from harness.catalog import load_model, resolve_sibling
    from harness.errors import CatalogError

    try:
        known = load_model(resolve_sibling(model_id) or model_id)
    except CatalogError:
        return None
    cache = [(g.layers * g.kv_values, g.window) for g in known.attention]
    windowed = sum(size * window for size, window in cache if window is not None)
    shares = sum(size for size, window in cache if window is not None)
    return ModelFacts(
        model_id=model_id,
        family=known.family,
        backbone=backbone(known),
        layers=known.layers,
        attention_layers=known.attention_layers,
        state_layers=known.state_layers,
        hidden_size=known.hidden_size,
        heads=known.heads,
        kv_heads=known.kv_heads,
        head_dim=known.head_dim,
        vocab_size=known.vocab_size,
        experts=known.experts,
        experts_per_token=known.experts_per_token,
        params_total=float(known.params_total),
        params_active=float(known.params_active),
        params_experts=float(known.params_experts),
        params_lookup=float(known.params_lookup),
        params_vision=float(known.params_vision),
        kv_bytes_per_token=known.kv_bytes_per_token(),
        kv_window_tokens=windowed / shares if shares else 0.0,
        kv_window_share=shares / sum(size for size, _ in cache) if shares else 0.0,
        state_bytes_per_sequence=known.state_bytes_per_sequence,
        state_flops_per_token=known.state_flops_per_token,
    )


def diffusion_facts(model_id: str) -> DiffusionFacts | None:
    """Return the architecture of a model that makes images or videos; None if not packaged."""
    from fitting.facts import DiffusionFacts
    from harness.catalog.diffusion import load_diffusion
    from harness.errors import CatalogError

    try:
        known = load_diffusion(model_id)
    except CatalogError:
        return None
    return DiffusionFacts(
        model_id=model_id,
        backbone=known.name,
        modality=known.modality,
        layers=known.layers,
        width=known.width,
        token_params=known.token_params,
        attention_layers=known.attention_layers,
        activation_widths=known.activation_widths,
        vae_pixels=known.vae_pixels,
        patch_pixels=known.patch_pixels,
        vae_frames=known.vae_frames,
        patch_frames=known.patch_frames,
        joint_text_tokens=known.joint_text_tokens,
        passes_per_step=known.passes_per_step,
    )


def backbone(model: CatalogModel) -> str:
    """Return what siblings have in common: the shape of the language model."""
    return "-".join(
        str(part)
        for part in (
            model.layers,
            model.hidden_size,
            model.intermediate_size,
            model.heads,
            model.kv_heads,
            model.experts,
            model.experts_per_token,
            model.expert_intermediate_size,
        )
    )


def _names(frame: pd.DataFrame, column: str) -> list[str]:
    return [str(name) for name in frame[column].dropna().unique()] if column in frame else []
