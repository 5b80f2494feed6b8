"""Settings for all tests."""

from hypothesis import settings

# Machines are shared, so how long an example takes says nothing.
settings.register_profile("costwise", deadline=None)
settings.load_profile("costwise")
