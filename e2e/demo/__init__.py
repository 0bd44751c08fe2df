"""`make demo`: an LLMDeployment goes 0 → 1 → N → 0 on a real cluster, first with real vLLM, then with engine-sim."""
