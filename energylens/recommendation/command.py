"""The `vllm serve` command line of a chosen configuration."""

from __future__ import annotations

import shlex

# Options of vLLM's engine arguments: https://docs.vllm.ai/en/stable/configuration/engine_args/
_DTYPE = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_NEEDS_CHECKPOINT = {
    "int8": "an int8 (W8A8) checkpoint of this model",
    "int4": "a 4-bit (AWQ or GPTQ) checkpoint of this model",
    "nvfp4": "an NVFP4 checkpoint of this model",
    "mxfp4": "an MXFP4 checkpoint of this model",
}


def vllm_command(
    model_id: str,
    *,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    expert_parallel: int = 1,
    data_parallel: int = 1,
    precision: str = "bf16",
    batch: int = 1,
    input_tokens: int = 1,
    output_tokens: int = 1,
    images: int = 0,
    frames: int = 0,
) -> str:
    """Return one shell line that serves the model in this configuration.

    `--max-num-seqs` holds the batch at the recommended size and `--max-model-len` leaves
    room for the workload and nothing more. Weights in 8 bits of floating point are
    quantised at load; other low precisions need a checkpoint, see `checkpoint_note`.
    """
    parts = ["vllm", "serve", model_id]
    if tensor_parallel > 1:
        parts += ["--tensor-parallel-size", str(tensor_parallel)]
    if pipeline_parallel > 1:
        parts += ["--pipeline-parallel-size", str(pipeline_parallel)]
    if data_parallel > 1:
        parts += ["--data-parallel-size", str(data_parallel)]
    if expert_parallel > 1:
        parts.append("--enable-expert-parallel")
    if precision in _DTYPE:
        parts += ["--dtype", _DTYPE[precision]]
    elif precision == "fp8":
        parts += ["--quantization", "fp8"]
    parts += ["--max-num-seqs", str(batch), "--max-model-len", str(input_tokens + output_tokens)]
    if images:
        parts += ["--limit-mm-per-prompt", f'{{"image": {images}}}']
    elif frames:
        parts += ["--limit-mm-per-prompt", '{"video": 1}']
    return shlex.join(parts)


def checkpoint_note(precision: str) -> str | None:
    """Say which checkpoint the command needs in place of the model's own, if any."""
    needed = _NEEDS_CHECKPOINT.get(precision)
    return f"replace the model name by {needed}" if needed else None
