"""The commands of `costwise-core`: one module each, imported when it is called."""
