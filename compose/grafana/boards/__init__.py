"""What Grafana shows, as Python: a module a dashboard. `compose.grafana.build` makes the JSON files of them."""
