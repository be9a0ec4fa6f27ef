"""flash-attn by its definition, for machines without a GPU."""

import sys
import types

import pytest
from tiny_lms import plain_varlen


@pytest.fixture
def flash_attn(monkeypatch):
    module = types.ModuleType("flash_attn")
    module.flash_attn_varlen_func = plain_varlen
    monkeypatch.setitem(sys.modules, "flash_attn", module)
