"""The catalog: architecture facts of models, datasheet facts of hardware."""

from harness.catalog.cpu import is_cpu
from harness.catalog.facts import WEIGHT_BYTES, AttentionGroup, ModelFacts, VisionFacts
from harness.catalog.hardware import Hardware, known_hardware, load_hardware
from harness.catalog.identify import identify
from harness.catalog.local import local_hardware
from harness.catalog.models import known_models, load_model, resolve_sibling

__all__ = [
    "WEIGHT_BYTES",
    "AttentionGroup",
    "Hardware",
    "ModelFacts",
    "VisionFacts",
    "identify",
    "is_cpu",
    "known_hardware",
    "known_models",
    "load_hardware",
    "load_model",
    "local_hardware",
    "resolve_sibling",
]
