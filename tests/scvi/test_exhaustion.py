"""What the machine lacks is known for what it is: memory or disk space by what torch says, an environment by what Lightning says."""

import pytest
import torch
from mapping import map_cells
from refmap.common.exhaustion import NO_MEMORY, NO_SPACE, Exhausted, MachineFault, exhaustion
from refmap.families.devices import check_gpu
from refmap.families.scvi.reference import train_reference


@pytest.mark.parametrize(
    ("work", "status"),
    [(lambda: torch.ones(1 << 50), NO_MEMORY), (lambda: torch.save(torch.ones(1 << 20), "/dev/full"), NO_SPACE)],
    ids=["memory", "disk"],
)
def test_torch_has_no_exception_of_its_own_for_it(work, status):
    with pytest.raises(Exhausted) as raised, exhaustion():
        work()
    assert raised.value.status == status
    assert type(raised.value.__cause__) is RuntimeError


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="must match"), exhaustion():
        torch.ones(2) + torch.ones(3)


def test_no_model_is_blamed_where_nothing_can_be_trained(scvi_model, cells, query, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_JOB_NAME", "map")
    with pytest.raises(MachineFault, match="^Lightning cannot train .* whatever the model: .*--ntasks=8") as raised:
        map_cells(query, scvi_model, tmp_path / "query", engine="scvi")
    assert "could not load" not in str(raised.value) and raised.value.status == 1
    with pytest.raises(MachineFault, match="whatever the model"):
        train_reference(cells, {"family": "scvi", "seed": 0}, tmp_path / "model")
    assert map_cells(query, scvi_model, tmp_path / "engine").record["train"]["engine"] == "refmap"  # without Lightning


def test_a_gpu_that_torch_cannot_compute_on_is_left_with_a_warning(scvi_model, query, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_gpu.cache_clear()
    mapped = map_cells(query, scvi_model, tmp_path / "mapped")
    check_gpu.cache_clear()
    assert mapped.record["device"] == "cpu"
    warning = next(sentence for sentence in mapped.record["warnings"] if "GPU" in sentence)
    assert warning.startswith("The GPU cannot be used and the CPU was taken, which is slower: ")
    assert len(warning) > 80  # torch's own words
