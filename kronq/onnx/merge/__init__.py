"""The merged form: ΔW added to the base's own weights."""
