"""The part of the prompt that you write yourself: examples, instructions, and what they cost."""
