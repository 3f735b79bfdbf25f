"""Use cases, callable without Celery. The clock is an argument; a service flushes, its caller commits."""
