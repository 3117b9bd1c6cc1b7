"""Every wrong sweep file is refused with the place, the value and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import SweepError
from harness.spec import expand, load_models, load_sweep

BASE = """name: a
models: [Qwen/Qwen3-8B]
hardware: [H100]
blocks:
  - {batch: 1, input_tokens: 128, output_tokens: 32}
"""


def changed(old: str, new: str) -> str:
    """Replace one part of the good sweep."""
    assert old in BASE
    return BASE.replace(old, new)


def block(text: str) -> str:
    """Replace the workload of the good sweep."""
    return changed("{batch: 1, input_tokens: 128, output_tokens: 32}", text)


WRONG: dict[str, tuple[str, list[str]]] = {
    "unknown key": (
        BASE + "tensor_paralel: [1]",
        ["'tensor_paralel'", "line 6", "did you mean 'tensor_parallel'?"],
    ),
    "unknown key of a block": (
        changed("batch: 1", "bacth: 1"),
        ["'bacth'", "line 5, key blocks[0].bacth", "did you mean 'batch'?"],
    ),
    "unknown nested key": (
        BASE + "twin: {noise: 1}",
        ["'noise'", "line 6, key twin.noise", "repeat_noise, seed"],
    ),
    "input tokens of an image": (
        changed("{batch", "{modality: image, batch"),
        ["'input_tokens'", "give text_tokens"],
    ),
    "duplicate key": (BASE + "name: b", ["'name' is given twice", "lines 1 and 6"]),
    "duplicate key of a block": (
        changed("batch: 1", "batch: 1, batch: 2"),
        ["'batch' is given twice", "key blocks[0].batch"],
    ),
    "quoted number": (
        changed("batch: 1", 'batch: "8"'),
        ["'8'", "line 5, key blocks[0].batch", "without quotes"],
    ),
    "boolean number": (changed("batch: 1", "batch: true"), ["not True", "line 5"]),
    "zero batch": (changed("batch: 1", "batch: [1, 0]"), ["0 is smaller", "blocks[0].batch[1]"]),
    "huge batch": (changed("batch: 1", "batch: 99999999999999999999"), ["too large"]),
    "half a grid": (changed("batch: 1", "batch: {range: [1, 64]}"), ["not a grid", "factor: 2"]),
    "key that is a number": (changed("batch: 1", "batch: {1: 2}"), ["{1: 2} is not a grid"]),
    "missing axis": (changed("batch: 1, ", ""), ["'batch' is missing", "line 5, key blocks[0]"]),
    "missing name": (changed("name: a\n", ""), ["'name' is missing", "add name:"]),
    "bad name": (changed("name: a", "name: a b"), ["'a b'", "letters, digits", "line 1"]),
    "name read as true": (changed("name: a", "name: yes"), ["True", "put quotes"]),
    "text for a number": (BASE + "repeats: three", ["'three'", "line 6, key repeats"]),
    "infinite window": (BASE + "window_s: .inf", ["inf", "finite", "line 6"]),
    "negative window": (BASE + "window_s: -1", ["-1", "greater than 0"]),
    "several problems": (
        BASE + "repeats: three\nwindow_s: -1\nkeep_traces: x",
        ["'three'", "2 more problem(s)", "window_s (line 7), keep_traces (line 8)"],
    ),
    "unknown model": (
        changed("Qwen3-8B", "Qwen3-8b-it"),
        ["'Qwen/Qwen3-8b-it'", "Qwen/Qwen3-8B", "line 2, key models[0]", "config.json"],
    ),
    "missing model file": (
        changed("Qwen/Qwen3-8B", "./nope.json"),
        ["'./nope.json' does not exist", "line 2", "put the model's config.json at"],
    ),
    "unknown hardware": (
        changed("H100", "H1000"),
        ["'H1000'", "H100-SXM5-80GB", "line 3, key hardware[0]"],
    ),
    "unknown engine": (
        BASE + "engine: vlm",
        ["'vlm'", "transformers, twin, vllm", "did you mean 'vllm'?"],
    ),
    "unknown precision": (BASE + "precision: fp9", ["'fp9'", "line 6", "did you mean 'fp8'?"]),
    "unknown modality": (
        changed("{batch", "{modality: audio, batch"),
        ["text, image or video", "line 5, key blocks[0].modality"],
    ),
    "modality that is a list": (changed("{batch", "{modality: [text], batch"), ["modality: text"]),
    "tensor parallel for no model": (
        BASE + "tensor_parallel: [1, 3]",
        ["tensor_parallel 3", "Qwen/Qwen3-8B has 32", "line 6", "remove 3"],
    ),
    "no model can see": (
        block(
            "{modality: image, batch: 1, text_tokens: 8, images: 1, image_size: [448, 448], "
            "output_tokens: 8}"
        ),
        ["vision tower", "line 5, key blocks[0], models Qwen/Qwen3-8B"],
    ),
    "everything excluded": (BASE + 'exclude: [{batch: ">= 1"}]', ["empty", "all 1 config"]),
    "bad comparison": (
        BASE + 'exclude: [{batch: "=> 1"}]',
        ["'=> 1'", "key exclude[0].batch", '">= 64"'],
    ),
    "empty condition": (BASE + "exclude: [{}]", ["exclude everything", "exclude[0]"]),
    "excluded model that is not there": (
        BASE + "exclude: [{model: Qwen/Qwen3-8}]",
        ["'Qwen/Qwen3-8'", "key exclude[0].model", "did you mean 'Qwen/Qwen3-8B'?"],
    ),
    "no work": (
        "name: a\nmodels: [Qwen/Qwen3-8B]\nhardware: H100",
        ["empty", "no blocks and no include", "add blocks"],
    ),
    "list at the top": ("- a\n- b", ["this one is a list", "line 1"]),
    "word at the top": ("hello", ["single value", "line 1"]),
    "empty file": ("", ["is empty"]),
    "not YAML": ("name: [a", ["not YAML", "line 1"]),
    "tab": ("name: a\n\tb: 1", ["not YAML", "line 2, column 1", "spaces"]),
    "two documents": ("name: a\n---\nname: b", ["not YAML", "line 2"]),
    "impossible date": (changed("name: a", "name: 2024-13-45"), ["2024-13-45", "quotes"]),
    "endless anchor": (changed("name: a", "name: &x [*x]"), ["anchors refer to themselves"]),
    "unknown tag": (changed("name: a", "name: !!python/name:os.system"), ["cannot be read"]),
    "merge key": (BASE + "twin: {<<: {seed: 1}}", ["Merge keys", "line 6"]),
    "key that is a mapping": (BASE + "? {a: 1}\n: 2", ["single word", "line 6"]),
    "blocks that are a number": (
        "name: a\nmodels: x\nhardware: H100\nblocks: 3",
        ["a list is needed, not 3".capitalize(), "line 4"],
    ),
    "block that is a number": (
        "name: a\nmodels: x\nhardware: H100\nblocks: [3]",
        ["keys with values are needed", "key blocks[0]"],
    ),
    "linked of different lengths": (
        block("{batch: 1, linked: {input_tokens: [1, 2], output_tokens: [1]}}"),
        ["move together", "input_tokens has 2, output_tokens has 1", "same length"],
    ),
    "linked and single": (
        block("{batch: 1, input_tokens: 4, linked: {input_tokens: [1], output_tokens: [1]}}"),
        ["'input_tokens' is given twice", "blocks[0].linked.input_tokens"],
    ),
    "linked axis of another block": (
        block("{batch: 1, linked: {images: [1], output_tokens: [1]}, input_tokens: 3}"),
        ["'images' cannot be linked here"],
    ),
    "linked that is a list of numbers": (
        block("{batch: 1, linked: [1, 2], output_tokens: 3}"),
        ["linked needs at least two axes"],
    ),
    "linked zero": (
        block("{linked: {batch: [0], input_tokens: [1]}, output_tokens: 3}"),
        ["from 1", "not 0", "blocks[0].linked.batch[0]"],
    ),
    "sampling without size": (BASE + "sampling: {method: random}", ["needs a size", "add size"]),
    "full with a size": (BASE + "sampling: {method: full, size: 3}", ["no size", "remove size"]),
    "unknown sampling": (BASE + "sampling: rondom", ["'rondom'", "latin_hypercube", "line 6"]),
    "block that widens": (
        changed("{batch", "{models: Qwen/Qwen3-32B, batch"),
        ["'Qwen/Qwen3-32B'", "narrow", "blocks[0].models", "Qwen/Qwen3-8B"],
    ),
    "include without input": (
        BASE + "include: [{model: Qwen/Qwen3-8B, hardware: H100, batch: 1, output_tokens: 3}]",
        ["'input_tokens' is missing", "include[0]"],
    ),
    "include of an image with input tokens": (
        BASE + "include:\n  - {model: Qwen/Qwen3-8B, hardware: H100, batch: 1, output_tokens: 3, "
        "modality: image, input_tokens: 3, images: 1, image_size: [4, 4], text_tokens: 3}",
        ["input_tokens does not belong", "line 7"],
    ),
    "price that is a word": (BASE + "price_per_gpu_hour: {H100: cheap}", ["prices", "2.5"]),
    "block too large": (
        block(
            "{batch: {range: [1, 9999], step: 1}, input_tokens: {range: [1, 9999], step: 1}, "
            "output_tokens: 1}"
        ),
        ["99,980,001", "5,000,000"],
    ),
    "sweep too large": (
        block(
            "{batch: {range: [1, 800], step: 1}, input_tokens: {range: [1, 700], step: 1}, "
            "output_tokens: 1}"
        ),
        ["560,000 tasks", "latin_hypercube"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_file_is_refused(case: str, tmp_path: Path) -> None:
    text, fragments = WRONG[case]
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SweepError) as caught:
        _expand_file(path)
    printed = str(caught.value)
    assert str(path) in printed or "models/" in printed
    assert "what to do:" in printed
    for fragment in fragments:
        assert fragment.casefold() in printed.casefold(), printed


def test_the_good_sweep_is_good(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(BASE, encoding="utf-8")
    assert len(_expand_file(path)) == 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="does not exist"):
        load_sweep(tmp_path / "none.yaml")


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="cannot be read"):
        load_sweep(tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SweepError, match="UTF-8"):
        load_sweep(path)


def _expand_file(path: Path) -> list[object]:
    sweep = load_sweep(path)
    return list(expand(sweep, load_models(sweep)))
