"""A RAG app in both frameworks, plain and with costwise, on a real corpus and a real model."""
