"""Real servers for the tests of one module, and a place of its own in them for each test."""

import itertools
from contextlib import ExitStack

import pytest

from tests.services.postgres_engine import Postgres, postgres
from tests.services.redis_engine import RedisEngine, redis_engine

numbers = itertools.count()


@pytest.fixture
def opened():
    """Closes what it is given when the test ends."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture(scope="module")
def postgres_server():
    with postgres() as server:
        yield server


@pytest.fixture
def schema(postgres_server: Postgres):
    schema = f"test_{next(numbers)}"
    yield schema
    postgres_server.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def raw_sql(postgres_server: Postgres, schema: str):
    """Runs one statement behind the store's back; "@" is the schema."""
    return lambda statement, *values: postgres_server.sql(
        statement.replace("@", f"{schema}."), *values
    )


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    with redis_engine(tmp_path_factory.mktemp("redis")) as engine:
        yield engine


@pytest.fixture
def mortal(tmp_path):
    """A Redis that a test may kill, freeze or fill; it has no query engine."""
    with redis_engine(tmp_path, search=False) as engine:
        yield engine


@pytest.fixture
def prefix():
    return f"test-{next(numbers)}"


@pytest.fixture
def raw_redis(redis_server: RedisEngine):
    """A client behind the store's back."""
    import redis

    with redis.Redis.from_url(redis_server.url, protocol=2) as client:
        yield client
