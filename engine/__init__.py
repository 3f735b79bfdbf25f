"""The night as a pure function of arrays: no I/O, no clock, no randomness. Specified in docs/ledger.md."""
