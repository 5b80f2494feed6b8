"""Where cache entries are kept. Import a store from its own module."""
