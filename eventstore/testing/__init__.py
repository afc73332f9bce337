"""What tests need: scenarios and races, fakes, fixtures, and the conformance suite for stores."""

import pytest

# Their asserts explain themselves in a third party's test run too.
pytest.register_assert_rewrite("eventstore.testing.conformance", "eventstore.testing.scenarios")
