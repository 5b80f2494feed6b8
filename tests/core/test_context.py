"""What travels beside a request."""

import threading
from contextvars import copy_context

import pytest

from costwise_core import Scope, current_request, scoped
from costwise_core.errors import ConfigError


def test_blocks_nest_and_end():
    with scoped(tenant="a"):
        with scoped(corpus="v1", tenant="b"):
            assert (current_request().tenant, current_request().corpus) == ("b", "v1")
        assert (current_request().tenant, current_request().corpus) == ("a", "")
    assert current_request().tenant == ""


def test_a_misspelt_field_names_the_right_one():
    with pytest.raises(ConfigError, match="Did you mean 'tenant'"), scoped(tennant="a"):
        pass


def test_a_wrong_type_is_refused():
    # A tenant of 1 and one of "1" must not become two scopes, or one.
    with pytest.raises(ConfigError, match="must be a str"), scoped(tenant=1):
        pass
    with pytest.raises(ConfigError, match="must be a bool"), scoped(bypass="no"):
        pass


def test_what_is_required_and_missing_is_said():
    assert "no tenant" in current_request().complete(Scope(), require=("tenant",))
    with scoped(tenant="acme"):
        scope = current_request().complete(Scope(model="m"), require=("tenant",))
    assert scope == Scope(tenant="acme", model="m")


def test_threads_do_not_see_each_other():
    seen = []

    def look():
        seen.append(current_request().tenant)

    with scoped(tenant="acme"):
        plain = threading.Thread(target=look)
        copied = threading.Thread(target=copy_context().run, args=(look,))
        for thread in (plain, copied):
            thread.start()
            thread.join()
    assert seen == ["", "acme"]
