"""Embedders. Import one from its own module, which names the extra it needs."""
