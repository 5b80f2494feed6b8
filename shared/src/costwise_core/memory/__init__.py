"""Conversation memory: old turns are folded into a summary when that pays, and recalled later."""
