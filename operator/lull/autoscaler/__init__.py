"""The loop that collects demand, decides and scales."""
