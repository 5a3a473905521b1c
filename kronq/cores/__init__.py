"""LoRA-XS's R alone: its frozen bases made, stored, recognized, and put around R again."""
