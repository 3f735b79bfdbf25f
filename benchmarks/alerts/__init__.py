"""Provokes every alert on a running stack, with the real Prometheus and Alertmanager, in minutes instead of hours."""
