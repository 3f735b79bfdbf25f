"""Chaos: nights under faults, compared row by row with nights without. Run it with `nightshift chaos`.

What it breaks is drawn from a seed (schedule.py), and a failing seed is replayed with one command. Nothing in the code
of production knows of it: the stack is reached through a proxy (proxy.py), and inside of the stack's processes an agent
(agent.py, poison.py) that comes by PYTHONPATH stands in for crashes at exact moments and for users who break things.
"""
