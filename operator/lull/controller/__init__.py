"""The Kopf shell: events become keys, keys are reconciled."""
