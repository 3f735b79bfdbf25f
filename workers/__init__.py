"""What runs: the Celery app and its processes, the exporter, the embedded servers, and the stack of all of them."""
