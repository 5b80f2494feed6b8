"""Texts taken apart, in any script: segments with their offsets, and words."""
