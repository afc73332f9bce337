"""What tests need: the conformance suite for stores, and fixtures for those who use one."""

import pytest

# The suite's asserts explain themselves in a third party's test run too.
pytest.register_assert_rewrite("eventstore.testing.conformance")
