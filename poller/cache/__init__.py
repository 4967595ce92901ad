"""The gateway's cache of balances, as far as a settlement must reach it."""
