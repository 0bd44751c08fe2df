"""The LLMDeployment as types: what a user may write and read. The CRD in `crds/` is generated from here."""
