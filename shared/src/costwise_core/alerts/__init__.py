"""Says when money goes where it did not go before."""
