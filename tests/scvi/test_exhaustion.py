"""What torch says where memory or disk space ran out is known for what it is."""

import pytest
import torch
from refmap.common.exhaustion import NO_MEMORY, NO_SPACE, Exhausted, exhaustion


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
