"""What a ledger says, on one page: sums, tables, a trend, and what could still be saved."""
