"""Model calls that can wait, at the price of a batch; and several questions in one call."""
