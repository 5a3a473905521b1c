"""Writers of adapters for other programs: PEFT folders, as LoKr or as the exact LoRA."""
