"""Autoscaled LLM serving on vLLM for Kubernetes."""

__version__ = "0.1.0"
