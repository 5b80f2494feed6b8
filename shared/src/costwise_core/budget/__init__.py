"""Budgets that hold: money, tokens or calls are reserved before a call and settled after it."""
