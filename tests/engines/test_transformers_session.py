from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import tiny_models

from harness.catalog import load_model
from harness.engines import load_engine
from harness.engines.transformers.failures import (
    EngineBrokenError,
    WorkloadFailedError,
    translate,
)
from harness.errors import EngineError, NotSupportedError, OutOfMemoryError
from harness.meters.none import NoMeter
from harness.spec import Deployment, Workload

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

WORK = Workload(batch=3, input_tokens=24, output_tokens=4)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def session(tmp_path):
    session = tiny_models.open_tiny(tmp_path, "llama")
    yield session
    session.close()


class Prompts:
    """Every input that the model of a session gets."""

    def __init__(self, session):
        self.seen: list[torch.Tensor] = []
        self.sizes: list[int] = []
        session._model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, model, args, kwargs):
        ids = kwargs["input_ids"]
        self.sizes.append(ids.shape[1])
        if ids.shape[1] > 1:
            self.seen.append(ids.clone())


def test_every_run_has_a_prompt_of_its_own_and_the_seed_fixes_them(tmp_path):
    kept = []
    for _ in range(2):
        session = tiny_models.open_tiny(tmp_path, "llama", seed=7)
        prompts = Prompts(session)
        session.run(WORK, "prefill", 3)
        session.run(WORK, "full", 2)
        session.run(WORK, "decode", 2)
        session.close()
        kept.append(prompts.seen)
    one, again = kept
    assert len(one) == 3 + 2 + 1  # a decode window has a single prefill
    rows = torch.cat(one)
    assert len(torch.unique(rows, dim=0)) == len(rows) == 6 * WORK.batch
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert int(rows.min()) >= 0
    assert int(rows.max()) < tiny_models.VOCAB


def test_prompts_have_no_special_tokens_but_all_others(tmp_path):
    session = tiny_models.open_tiny(tmp_path, "qwen2_vl")
    ids = session._inputs.make(Workload(batch=64, input_tokens=1024, output_tokens=1))["input_ids"]
    session.close()
    missing = set(range(tiny_models.VOCAB)) - set(ids.unique().tolist())
    assert missing == {1, 2, 2040, 2041, 2042, 2043}


def test_a_run_is_one_prefill_and_one_step_less_than_tokens(session):
    prompts = Prompts(session)
    session.run(WORK, "full", 1)
    assert prompts.sizes == [24, 1, 1, 1]
    prompts.sizes.clear()
    session.run(WORK, "prefill", 2)
    assert prompts.sizes == [24, 24]
    prompts.sizes.clear()
    session.run(WORK, "decode", 3)
    assert prompts.sizes == [24, *[1, 1, 1] * 3]


def test_stamps_of_each_phase(session):
    for phase in session.phases:
        stamps = session.run(WORK, phase, 4)
        assert stamps.count == 4
        edges = np.stack([stamps.starts_ns, stamps.first_tokens_ns, stamps.ends_ns], axis=1)
        assert edges.dtype == np.int64
        assert (np.diff(edges.ravel()) >= 0).all()
        inner = {"prefill": (1, 2), "decode": (0, 1)}.get(phase)
        if inner is not None:
            assert (edges[:, inner[0]] == edges[:, inner[1]]).all()
        assert (stamps.ends_ns > stamps.starts_ns).all()


def test_the_output_is_varied_although_the_weights_are_random(session):
    inputs, replies = session._inputs.make(WORK), session._inputs.replies(WORK)
    _, out = session._generator.run(inputs, WORK.output_tokens, replies)
    assert torch.equal(out[:, WORK.input_tokens :], replies)
    assert torch.equal(out[:, : WORK.input_tokens], inputs["input_ids"])


def test_an_end_token_does_not_end_a_run(session):
    inputs = session._inputs.make(WORK)
    ends = torch.full((WORK.batch, WORK.output_tokens), 2)  # eos_token_id of the config
    _, out = session._generator.run(inputs, WORK.output_tokens, ends)
    assert torch.equal(out[:, WORK.input_tokens :], ends)


def test_environment_is_plain_json_and_says_what_matters(tmp_path):
    for name in ("llama", "mamba2", "mixtral"):
        session = tiny_models.open_tiny(tmp_path, name, precision="bf16")
        found = json.loads(json.dumps(session.environment()))
        session.close()
        assert found["versions"]["torch"] == torch.__version__
        assert found["dtype"] == "bfloat16"
        assert found["threads"] == 1
        assert found["attention"] == (None if name == "mamba2" else "sdpa")
        assert found["devices"][0]["kind"] == "cpu"
        assert found["idle_power"]["loaded_w"] is None
        assert found.get("ssm_reference_kernels") is (True if name == "mamba2" else None)
        assert (found["experts"] is None) is (name != "mixtral")


def test_rest_and_close(session):
    start, end = session.rest(0.01)
    assert end - start >= 10_000_000
    assert session.provenance == "measured"
    session.close()
    session.close()


def test_a_batch_that_cannot_fit_is_refused_before_it_is_made(session):
    huge = Workload(batch=10**9, input_tokens=4096, output_tokens=8)
    for phase in session.phases:
        with pytest.raises(OutOfMemoryError, match="GiB") as caught:
            session.run(huge, phase, 1)
        assert caught.value.kind == "out_of_memory"
    assert session.run(WORK, "full", 1).count == 1


def test_an_allocation_that_fails_is_out_of_memory_and_the_session_goes_on(tmp_path):
    # The mask of a million tokens is larger than the address space of most machines allows.
    small = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    path = tiny_models.write_config(
        tmp_path, "llama", **small, intermediate_size=64, num_hidden_layers=1
    )
    session = load_engine(
        "transformers", threads=1, attention="eager", meter_factory=lambda kind, uuids: NoMeter()
    ).open(load_model(str(path)), Deployment(hardware="CPU", precision="fp32"), 0)
    long = Workload(batch=1, input_tokens=1_000_000, output_tokens=1)
    with pytest.raises(OutOfMemoryError, match="allocate"):
        session.run(long, "prefill", 1)
    assert session.run(WORK, "decode", 2).count == 2
    session.close()


def test_a_crash_is_told_on_one_line_and_the_session_goes_on(session):
    def crash(*_):
        raise RuntimeError("boom\nsecond line")

    handle = session._model.register_forward_pre_hook(crash)
    with pytest.raises(WorkloadFailedError, match="boom") as caught:
        session.run(WORK, "full", 1)
    assert caught.value.kind == "workload_failed"
    assert "second" not in caught.value.what
    handle.remove()
    assert session.run(WORK, "full", 1).count == 1


def test_a_lost_context_ends_the_session(session):
    def lose(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    handle = session._model.register_forward_pre_hook(lose)
    with pytest.raises(EngineBrokenError) as caught:
        session.run(WORK, "full", 1)
    assert caught.value.kind == "engine_broken"
    handle.remove()
    with pytest.raises(EngineBrokenError):
        session.run(WORK, "prefill", 1)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            "out_of_memory",
        ),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA error: device-side assert triggered"), "engine_broken"),
        (NotImplementedError("no such kernel"), "not_supported"),
        (ValueError("odd"), "workload_failed"),
    ],
)
def test_errors_are_told_apart(error, kind):
    assert isinstance(translate(error, "here"), EngineError)
    assert translate(error, "here").kind == kind


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"visual_tokens": 31}, "32 visual tokens, not the 31"),
        ({"image_height": 0}, "at least 1"),
        ({"images": 0}, "at least 1"),
        ({"image_width": 112 * 201}, "more than 200 times"),
        ({"input_tokens": 34}, "too few"),
    ],
)
def test_a_broken_image_size_is_refused(tmp_path, change, words):
    session = tiny_models.open_tiny(tmp_path, "qwen2_vl")
    facts = load_model(str(tmp_path / "qwen2_vl" / "config.json"))
    good = tiny_models.images(facts, 2, 112)
    assert good.visual_tokens == 32
    with pytest.raises(NotSupportedError, match=words):
        session.run(good.model_copy(update=change), "prefill", 1)
    session.run(good, "prefill", 1)
    assert session.environment()["visual_inputs"]["112x112"]["height_px"] == 112
    session.close()


def test_a_text_model_takes_no_images(session):
    work = Workload(
        modality="image",
        batch=1,
        input_tokens=64,
        output_tokens=2,
        visual_tokens=16,
        images=1,
        image_height=112,
        image_width=112,
    )
    with pytest.raises(NotSupportedError, match="takes no images"):
        session.run(work, "full", 1)


def test_pixels_differ_from_run_to_run_and_come_at_the_declared_size(tmp_path):
    session = tiny_models.open_tiny(tmp_path, "qwen2_vl")
    facts = load_model(str(tmp_path / "qwen2_vl" / "config.json"))
    work = tiny_models.images(facts, 2, 112, batch=3)
    one, two = session._inputs.make(work), session._inputs.make(work)
    assert one["pixel_values"].shape == (3 * 2 * 8 * 8, 3 * 2 * 14 * 14)
    assert one["image_grid_thw"].tolist() == [[1, 8, 8]] * 6
    assert not torch.equal(one["pixel_values"], two["pixel_values"])
    assert float(one["pixel_values"].std()) > 0.5
    clip = session._inputs.make(tiny_models.video(facts, 4, 112, batch=3))
    assert clip["video_grid_thw"].tolist() == [[2, 8, 8]] * 3
    session.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tensor_parallel": 2}, "one device, not with tensor_parallel 2"),
        ({"pipeline_parallel": 2}, "pipeline_parallel 2"),
        ({"precision": "fp8"}, "does not run fp8"),
        ({"precision": "mxfp4"}, "does not run mxfp4"),
    ],
)
def test_deployments_that_this_engine_cannot_run(tmp_path, change, words):
    facts = load_model(str(tiny_models.write_config(tmp_path, "llama")))
    engine = load_engine("transformers", meter_factory=lambda kind, uuids: NoMeter())
    deployment = Deployment(**{"engine": "transformers", "hardware": "CPU", **change})
    with pytest.raises(NotSupportedError, match=words):
        engine.open(facts, deployment, 0)


def test_a_model_larger_than_memory_is_refused_with_both_sizes():
    engine = load_engine("transformers", meter_factory=lambda kind, uuids: NoMeter())
    facts = load_model("meta-llama/Meta-Llama-3.1-405B")
    deployment = Deployment(engine="transformers", hardware="CPU", precision="fp32")
    if engine_memory_bytes() > 4 * facts.params_total:
        pytest.skip("this machine holds 1.6 TB of weights")
    with pytest.raises(OutOfMemoryError, match=r"1511.9 GiB in fp32, .* GiB are free"):
        engine.open(facts, deployment, 0)


def engine_memory_bytes() -> int:
    from harness.engines.transformers.devices import find_device, free_memory_bytes

    return free_memory_bytes(find_device("CPU"))


def test_experts_are_not_narrowed(tmp_path):
    with pytest.raises(NotSupportedError, match="experts"):
        tiny_models.open_tiny(tmp_path, "mixtral", precision="int8")


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_narrow_weights_without_torchao_name_the_package(tmp_path):
    with pytest.raises(NotSupportedError, match="torchao") as caught:
        tiny_models.open_tiny(tmp_path, "llama", precision="int8")
    assert caught.value.fix == "pip install torchao"


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_narrow_weights_by_torchao(tmp_path, precision):
    try:
        session = tiny_models.open_tiny(tmp_path, "llama", precision=precision)
    except NotSupportedError as error:
        pytest.skip(f"torchao on this CPU: {error.what}")
    stamps = session.run(WORK, "decode", 2)
    assert stamps.count == 2
    assert "torchao" in session.environment()["quantisation"]
    layer = session._model.model.layers[0].mlp.up_proj.weight
    assert type(layer) is not torch.nn.Parameter
    session.close()
