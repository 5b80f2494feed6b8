"""Scorers: how relevant passages are to a question. Import one from its own module."""
