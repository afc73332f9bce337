pytest_plugins = (
    "pytester",
    "tests.fixtures.database",
    "tests.fixtures.stores",
    "tests.fixtures.events",
    "tests.fixtures.subscriptions",
    "tests.fixtures.pgbouncer",
    "tests.fixtures.views",
)
