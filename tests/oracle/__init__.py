"""The ledger of docs/ledger.md a second time: one simulation at a time, Python integers, loops. Slow and obvious."""
