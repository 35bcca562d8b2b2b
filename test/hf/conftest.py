"""A deprecation warning of Transformers fails the test."""

from __future__ import annotations

import logging

import pytest
from transformers.utils import logging as transformers_logging

OURS = ("error::FutureWarning", "error::DeprecationWarning:transformers")
ERRORS = {
    **{"llama": OURS, "convert": OURS},
    "speech": ("error::FutureWarning:transformers",),  # S3PRL's models have others
}

OWN = "Passing `generation_config` together"
"""What assisted decoding in Transformers does to itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for rule in ERRORS.get(item.path.parent.name, ()):
            # A test's own marks come after, and win.
            item.add_marker(pytest.mark.filterwarnings(rule), append=False)


@pytest.fixture(autouse=True)
def nothing_deprecated(request: pytest.FixtureRequest):
    """Some deprecations are only logged, once per process."""
    if "reference" in request.fixturenames:  # the authors' code is older
        yield
        return
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = transformers_logging.get_logger("transformers")
    transformers_logging.warning_once.cache_clear()
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    deprecated = [message for message in seen if "deprecated" in message]
    deprecated = [message for message in deprecated if OWN not in message]
    assert not deprecated, deprecated
