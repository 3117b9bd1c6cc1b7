from __future__ import annotations

import pytest
import tiny_models
from scripted import GpuScript, ScriptedNvml

from harness.catalog import known_hardware, load_hardware, load_model
from harness.catalog.cpu import cpu_id
from harness.catalog.identify import identify
from harness.catalog.machine import this_machine
from harness.engines.transformers.devices import find_device
from harness.engines.transformers.engine import TransformersEngine
from harness.errors import NotSupportedError
from harness.meters.none import NoMeter
from harness.spec import Deployment, Workload

torch = pytest.importorskip("torch")

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "gib", "hardware"),
    [
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", 79.3, "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", 79.3, "A100-PCIE-80GB"),
        ("NVIDIA H100 80GB HBM3", 79.2, "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", 79.2, "H100-PCIE-80GB"),
        ("NVIDIA GH200 480GB", 95.0, "GH200-96GB"),
        ("NVIDIA H200", 139.8, "H200-SXM5-141GB"),
        ("NVIDIA L40S", 44.4, "L40S-48GB"),
        ("NVIDIA L4", 22.0, "L4-24GB"),
        ("Tesla V100-SXM2-32GB", 31.7, "V100-SXM2-32GB"),
        ("AMD Instinct MI300X", 191.9, "MI300X-192GB"),
    ],
)
def test_devices_are_known_by_the_name_that_their_driver_says(name, gib, hardware):
    assert identify(name, int(gib * GIB)) == hardware


@pytest.mark.parametrize(
    ("name", "gib"),
    [
        ("NVIDIA H200 NVL", 139.8),
        ("NVIDIA H100 NVL", 93.1),
        ("NVIDIA GH200 480GB", 143.0),
        ("NVIDIA A100-PCIE-40GB", 39.4),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 39.4),
        ("NVIDIA A100-SXM4-80GB", 39.4),
        ("AMD Instinct MI250X", 64.0),
        ("Tesla T4", 14.6),
        ("", 80.0),
    ],
)
def test_what_the_catalog_does_not_have_is_not_taken_for_its_kin(name, gib):
    assert identify(name, int(gib * GIB)) is None


def test_every_type_of_the_catalog_is_known_by_its_own_name():
    for known in known_hardware():
        assert identify(known, load_hardware(known).memory_bytes) == known


def test_a_cpu_runs_what_names_a_cpu():
    here = this_machine()
    name = cpu_id(here.cpu_model, here.cores)
    device = find_device(name)
    assert (device.kind, device.torch_name, device.uuid) == ("cpu", "cpu", "")
    assert device.name
    with pytest.raises(NotSupportedError, match="told to run on cuda"):
        find_device(name, "cuda")
    with pytest.raises(NotSupportedError, match=f"the CPU here is {name}"):
        find_device("CPU-Somebody-Elses-64C")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_by_name():
    with pytest.raises(NotSupportedError, match=r"names H200-SXM5-141GB.*no GPU here"):
        find_device("H200-SXM5-141GB")


@pytest.fixture
def h100(tmp_path, monkeypatch):
    """A machine whose driver says that there is one H100, which draws 70 W."""
    with ScriptedNvml([GpuScript()], folder=tmp_path) as library:
        library.install(monkeypatch)
        yield library


def _open(folder, hardware, **options):
    facts = load_model(str(tiny_models.write_config(folder, "llama")))
    deployment = Deployment(engine="transformers", hardware=hardware, precision="fp32")
    return TransformersEngine(threads=1, **options).open(facts, deployment, 0)


def test_a_simulated_gpu_is_read_by_the_real_meter_and_called_projected(h100, tmp_path):
    session = _open(tmp_path, "H100-SXM5-80GB", device="cpu")
    try:
        found = session.environment()
        assert session.provenance == "projected"
        assert found["devices"][0]["uuid"] == h100.uuids[0]
        assert found["idle_power"]["loaded_w"] == pytest.approx(70, rel=0.01)
        stamps = session.run(Workload(batch=1, input_tokens=16, output_tokens=8), "decode", 3)
        samples = session.meter.read(stamps.start_ns, stamps.end_ns)
        assert samples.t_ns[0] < stamps.start_ns < stamps.end_ns < samples.t_ns[-1]
    finally:
        session.close()


@pytest.mark.parametrize("pids", [(), (4242,)])
def test_processes_that_were_there_before_are_told(h100, tmp_path, pids):
    h100.set_processes(0, pids)
    session = _open(tmp_path, "H100-SXM5-80GB", device="cpu")
    try:
        assert session.environment()["foreign_processes"] == len(pids)
        assert session.environment()["devices"][0]["driver"] == "scripted-1.0"
    finally:
        session.close()


def test_work_of_the_cpu_is_never_given_the_power_of_a_gpu(h100, tmp_path):
    with pytest.raises(NotSupportedError, match="done by the CPU"):
        _open(
            tmp_path,
            "H100-SXM5-80GB",
            device="cpu",
            meter_factory=lambda kind, uuids: NoMeter(),
        )


def test_another_gpu_than_the_deployment_names_is_refused_with_both_names(h100):
    with pytest.raises(NotSupportedError, match=r"names A100-SXM4-80GB.*H100 80GB HBM3.*H100-SXM5"):
        find_device("A100-SXM4-80GB")


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_torch_must_see_the_gpu_too(h100):
    with pytest.raises(NotSupportedError, match="torch does not see"):
        find_device("H100-SXM5-80GB", "cuda:0")
