import re
from pathlib import Path

import pytest
import torch

from ofa.threads import torch_threads

ROOT = Path(__file__).parent.parent.parent
# What runs in a worker process of its own, for good on one thread.
WORKERS = {"jobs/evaluators.py", "jobs/workers/evaluator.py", "jobs/tools/serve.py"}


def test_the_number_of_threads_is_as_before_also_after_an_error():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), torch_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_no_step_leaves_another_number_of_threads():
    """In the driver's process threads are set by `torch_threads` alone, which sets them back."""
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("cluster", "ensemble", "jobs", "ofa", "search")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\.set_num_threads\(", path.read_text())
    }
    assert "ofa/threads.py" in found
    assert found <= {"ofa/threads.py", *WORKERS}
