"""Compressors: what of the retrieved passages goes into the prompt. Import one from its module."""
