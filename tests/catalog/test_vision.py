from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.catalog import known_models, load_model
from harness.errors import CatalogError

QWEN_VL = [name for name in known_models() if "Qwen3-VL" in name]
WITH_VISION = [name for name in known_models() if load_model(name).vision is not None]
PIXELS = st.integers(1, 4000)


def test_image_tokens_of_known_sizes() -> None:
    facts = load_model("Qwen/Qwen3-VL-8B-Instruct")
    assert facts.visual_tokens(1024, 1024) == 1024
    assert facts.visual_tokens(448, 448) == 196
    assert facts.visual_tokens(1080, 1920) == 34 * 60
    assert facts.visual_tokens(1, 1) == 1


def test_video_frames_share_a_grid_in_pairs() -> None:
    facts = load_model("Qwen/Qwen3-VL-8B-Instruct")
    assert facts.video_tokens(16, 448, 448) == 8 * 196
    assert facts.video_tokens(15, 448, 448) == 8 * 196
    assert facts.video_tokens(1, 448, 448) == 196


def test_gemma_images_have_a_fixed_number_of_tokens() -> None:
    assert load_model("google/gemma-3-12b-it").visual_tokens(123, 4567) == 256
    assert load_model("google/gemma-4-26B-A4B").visual_tokens(123, 4567) == 280
    assert load_model("google/gemma-3-12b-it").video_tokens(3, 100, 100) == 3 * 256


@given(name=st.sampled_from(WITH_VISION), height=PIXELS, width=PIXELS, frames=st.integers(1, 64))
def test_tokens_are_positive_and_grow(name: str, height: int, width: int, frames: int) -> None:
    facts = load_model(name)
    assert facts.visual_tokens(height, width) >= 1
    assert facts.visual_tokens(height + 100, width) >= facts.visual_tokens(height, width)
    assert facts.video_tokens(frames, height, width) >= 1
    more = facts.video_tokens(frames + 1, height, width)
    assert more >= facts.video_tokens(frames, height, width)


@given(name=st.sampled_from(QWEN_VL), height=PIXELS, width=PIXELS)
def test_image_tokens_agree_with_the_twin_engine(name: str, height: int, width: int) -> None:
    pytest.importorskip("aiconfigurator_core")
    from aiconfigurator_core.sdk import config, utils
    from aiconfigurator_core.sdk.backends.base_backend import BaseBackend

    tower = utils.get_model_config_from_model_path(name)["extra_params"]
    request = config.RuntimeConfig(
        batch_size=1,
        isl=10,
        osl=1,
        image_height=height,
        image_width=width,
        num_images_per_request=1,
    )
    theirs = BaseBackend._visual_context_tokens_from_encoder_config(tower, request)
    assert load_model(name).visual_tokens(height, width) == theirs


def test_text_model_has_no_visual_tokens() -> None:
    with pytest.raises(CatalogError, match="takes no images"):
        load_model("Qwen/Qwen3-8B").visual_tokens(448, 448)


@pytest.mark.parametrize(("frames", "height", "width"), [(0, 10, 10), (1, 0, 10), (1, 10, -1)])
def test_empty_images_and_videos_are_refused(frames: int, height: int, width: int) -> None:
    with pytest.raises(CatalogError, match="no tokens"):
        load_model("Qwen/Qwen3-VL-8B-Instruct").video_tokens(frames, height, width)
