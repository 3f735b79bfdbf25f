"""Celery tasks, one module a queue: parse, open what is needed, call one service."""
