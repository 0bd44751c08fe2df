"""The only ways out: the Kubernetes API, HTTP, the clock, metrics and logs."""
