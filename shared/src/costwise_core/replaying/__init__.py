"""What costwise would have saved on a log of real calls, with no model called."""
