"""Where there is Metal the kernels run on the GPU; elsewhere the same tests run their text in the emulator."""

import sys
from pathlib import Path

import mlx.core as mx
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def can_run():
    """Skip what can be run on neither."""
    from emulator.build import why_not

    reason = None if mx.metal.is_available() else why_not()
    if reason:
        pytest.skip(reason)
