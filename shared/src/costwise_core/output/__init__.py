"""How long answers may be, task by task."""
