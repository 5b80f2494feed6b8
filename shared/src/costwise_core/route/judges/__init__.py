"""Judges: how good an answer is, without knowing the right one."""
