from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def children_answer_here():
    """Verification and opening of external models start no processes in this module."""
    from tests.helpers import children  # torch and ONNX Runtime

    with pytest.MonkeyPatch.context() as patch:
        children.answer_here(patch)
        yield
