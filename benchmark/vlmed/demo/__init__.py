"""The models of `vlmed demo`: a tiny dual encoder and a LoRA adapter for it, trained on phantoms while you wait."""
